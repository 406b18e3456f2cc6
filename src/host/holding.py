"""Says what a PostgreSQL database holds, or changes what only we put there.

Standard input is a JSON object: `connection` is what psycopg2 connects with, `act` one of `look`, `begin`,
`end`, `clear`.
"""

import json
import sys

import psycopg2

# Stands in a database that is being filled: what is in it then is a part, and ours to throw away.
MARK = "synvisor_unfinished"
# What Synapse's own script leaves in one that it fills.
PORTING = "port_from_sqlite3"

# Names of sessions that are no Synapse's, which gives itself none.
TOOLS = ["psql", "pg_dump", "pg_dumpall", "pg_restore", "pg_basebackup"]

# What clients have made, by which it is known whether somebody has written since.
COUNTS = {
    "events": "SELECT coalesce(max(stream_ordering), 0) FROM events",
    "tokens": "SELECT coalesce(max(id), 0) FROM access_tokens",
    "users": "SELECT count(*) FROM users",
    "media": "SELECT count(*) FROM local_media_repository",
}

asked = json.load(sys.stdin)
database = psycopg2.connect(**asked["connection"], connect_timeout=10)
database.autocommit = True
cursor = database.cursor()


def one(statement, *values):
    cursor.execute(statement, values)
    row = cursor.fetchone()
    return row and row[0]


def is_there(table):
    return one("SELECT to_regclass(%s)", table) is not None


def newest_media():
    cursor.execute(
        "SELECT media_id FROM local_media_repository WHERE url_cache IS NULL AND quarantined_by IS NULL"
        " AND media_length IS NOT NULL ORDER BY created_ts DESC LIMIT 50"
    )
    return [row[0] for row in cursor.fetchall()]


def look():
    cursor.execute(
        "SELECT pg_encoding_to_char(encoding), datcollate, datctype, pg_get_userbyid(datdba), current_user"
        " FROM pg_database WHERE datname = current_database()"
    )
    encoding, collate, ctype, owner, user = cursor.fetchone()
    tables = one("SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()")
    foreign = one(
        "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()"
        " AND NOT pg_has_role(tableowner, 'USAGE')"
    )
    schema = one("SELECT version FROM schema_version") if is_there("schema_version") else None
    compat = (
        one("SELECT compat_version FROM schema_compat_version") if is_there("schema_compat_version") else None
    )
    # What another role's session is, is hidden (null) from who is no member of that role.
    cursor.execute(
        "SELECT usename, count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND usename IS NOT NULL AND pid <> pg_backend_pid()"
        " AND coalesce(backend_type, 'client backend') = 'client backend'"
        " AND coalesce(application_name, '') <> ALL(%s) GROUP BY 1",
        (TOOLS,),
    )
    clients = dict(cursor.fetchall())
    known = schema is not None and is_there("users") and is_there("events")
    return {
        "server": int(one("SHOW server_version_num")) // 10000,
        "encoding": encoding,
        "collate": collate,
        "ctype": ctype,
        "owner": owner,
        "user": user,
        "tables": tables,
        "foreign": foreign,
        "schema": schema,
        "oldest_code": compat or 0,
        "clients": clients,
        "unfinished": is_there(MARK),
        "someone": one("SELECT name FROM users LIMIT 1") if known else None,
        "media": newest_media() if known else [],
        "counts": {name: one(statement) for name, statement in COUNTS.items()} if known else {},
    }


act = asked["act"]
if act == "begin":
    cursor.execute(f"CREATE TABLE IF NOT EXISTS {MARK} (since timestamptz DEFAULT now())")
elif act == "end":
    cursor.execute(f"DROP TABLE IF EXISTS {MARK}, {PORTING}")
elif act == "clear":
    if not is_there(MARK):
        sys.exit("it is not ours to clear")
    if one("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    else:
        # Who is no administrator may not drop the schema of an older PostgreSQL.
        cursor.execute("DROP OWNED BY CURRENT_USER CASCADE")
print(json.dumps(look()))
