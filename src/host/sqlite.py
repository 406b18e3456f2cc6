"""Looks at a SQLite database of Synapse's, and changes nothing; standard input is its path, as JSON."""

import json
import sqlite3
import sys
import urllib.parse

address = "file:" + urllib.parse.quote(json.load(sys.stdin)) + "?mode=ro"
database = sqlite3.connect(address, uri=True, timeout=60)


def one(statement):
    row = database.execute(statement).fetchone()
    return row and row[0]


facts = {
    "schema": one("SELECT version FROM schema_version"),
    "updates": one("SELECT count(*) FROM background_updates"),
    "someone": one("SELECT name FROM users LIMIT 1"),
    "vacuum": one("PRAGMA auto_vacuum"),
}
print(json.dumps(facts))
