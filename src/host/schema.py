"""Prints which schemas the Synapse of this virtualenv can use, and which one the database has.

Standard input is a JSON object: what psycopg2 connects with, or null.
"""

import json
import sys

from synapse.storage.schema import SCHEMA_COMPAT_VERSION, SCHEMA_VERSION

connection = json.load(sys.stdin)
facts = {"newest": SCHEMA_VERSION, "oldest_code": SCHEMA_COMPAT_VERSION, "database": None}
if connection is not None:
    import psycopg2

    with psycopg2.connect(**connection, connect_timeout=10) as database, database.cursor() as cursor:

        def number(table, column):
            cursor.execute("SELECT to_regclass(%s)", (table,))
            if cursor.fetchone()[0] is None:
                return None
            cursor.execute(f"SELECT {column} FROM {table}")
            row = cursor.fetchone()
            return row and row[0]

        version = number("schema_version", "version")
        if version is not None:
            # Databases from before Synapse 1.33 have no second table.
            facts["database"] = {
                "version": version,
                "oldest_code": number("schema_compat_version", "compat_version") or 0,
            }
print(json.dumps(facts))
