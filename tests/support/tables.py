"""A database in which Synapse has made its tables, once for all tests that only want one: that takes time."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

from .deployment import EMBEDDED_DATABASE, Deployment, wait_for
from .toolchain import REQUIREMENTS, work_directory

# What Synapse does once to the tables that it has just made, without a rest.
AT_ONCE = "background_updates.sleep_enabled = false"
DONE = "No more background updates to do"


def lay_out(home: Deployment) -> None:
    """Gives an embedded PostgreSQL its data before it is ever started."""
    place = home.state / "postgres"
    if place.exists():
        return
    made = tables()
    home.state.mkdir(mode=0o750, exist_ok=True)
    owner = made.stat()
    for directory in (home.state, place):
        directory.mkdir(exist_ok=True)
        shutil.chown(directory, owner.st_uid, owner.st_gid)
    place.chmod(0o700)
    subprocess.run(["cp", "--archive", "--reflink=auto", made, place / "data"], check=True)


def tables() -> Path:
    """The data directory, made if need be."""
    place = work_directory() / "tables"
    wanted = REQUIREMENTS["venv"].read_text(encoding="utf-8")
    mark = place / "of"
    with (work_directory() / "tables.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists() or mark.read_text(encoding="utf-8") != wanted:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            home = Deployment(synapse=AT_ONCE, services=EMBEDDED_DATABASE, empty=True)
            try:
                home.start().wait_ready()
                log = home.state / "logs" / "main.log"
                wait_for("the tables", lambda: True if DONE in log.read_text(encoding="utf-8") else None)
                home.stop()
                subprocess.run(
                    ["cp", "--archive", home.state / "postgres" / "data", place / "data"], check=True
                )
            finally:
                home.close()
            mark.write_text(wanted, encoding="utf-8")
    return place / "data"
