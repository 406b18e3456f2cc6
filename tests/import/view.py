"""What Synapse's own parser makes of configurations, compared: `view.py PAIRS.json`.

PAIRS.json is a list of `{"name", "original": [FILE, …], "rendered": FILE}`. Prints as JSON, for each, the
attributes of Synapse's configuration objects that differ, or the error of the one that Synapse refuses.
"""

import json
import re
import sys
from pathlib import Path

import attr
import synapse.config.repository
from synapse.config.homeserver import HomeServerConfig

# The virtualenv of the tests lacks what previews of pages need to be made, and nothing else depends on it.
synapse.config.repository.check_requirements = lambda *_: None

DEEPEST = 12


def plain(value: object, depth: int = 0) -> object:
    """A value made of what JSON knows, the same for two objects that mean the same."""
    if depth > DEEPEST:
        return type(value).__name__
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {str(key): plain(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry, depth + 1) for entry in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(entry, depth + 1) for entry in value), key=repr)
    if isinstance(value, re.Pattern):
        return value.pattern
    if isinstance(value, type) or callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    if attr.has(type(value)):
        return {
            field.name: plain(getattr(value, field.name), depth + 1) for field in attr.fields(type(value))
        }
    if hasattr(value, "iter_cidrs"):
        return sorted(str(network) for network in value.iter_cidrs())
    if type(value).__module__.startswith("synapse.") and hasattr(value, "__dict__"):
        held = {key: entry for key, entry in vars(value).items() if key != "root"}
        return {key: plain(entry, depth + 1) for key, entry in held.items()}
    return type(value).__name__


def connection(args: dict) -> dict:
    """The arguments of psycopg2, which has two names for one of them and a default for another."""
    found = {"dbname" if key == "database" else key: value for key, value in args.items()}
    return {**found, "port": int(found.get("port", 5432))}


def view(paths: list[str]) -> dict[str, object]:
    config = HomeServerConfig.load_config("", [flag for path in paths for flag in ("-c", path)])
    found = {}
    for database in config.database.databases:
        if database.config["name"] == "psycopg2":
            database.config["args"] = connection(database.config["args"])
            database.config.setdefault("txn_limit", 0)
    for section in config.config_classes:
        held = getattr(config, section.section)
        for name, value in vars(held).items():
            if name != "root":
                found[f"{section.section}.{name}"] = plain(value)
    return found


def difference(pair: dict) -> dict:
    sides = []
    for paths in (pair["original"], [pair["rendered"]]):
        try:
            sides.append(view(paths))
        except Exception as error:
            return {"name": pair["name"], "error": f"{paths}: {type(error).__name__}: {error}"}
    original, rendered = sides
    keys = sorted(original.keys() | rendered.keys())
    differing = {
        key: [original.get(key), rendered.get(key)] for key in keys if original.get(key) != rendered.get(key)
    }
    return {"name": pair["name"], "differing": differing, "attributes": len(keys)}


if __name__ == "__main__":
    pairs = json.loads(Path(sys.argv[1]).read_bytes())
    print(json.dumps([difference(pair) for pair in pairs]))
