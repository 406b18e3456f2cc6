"""Everything that a running main process or worker has loaded, loaded once, before the first fork.

Import only: no configuration, no logging, no database. What is forked must have one thread and hold nothing open.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import threading
from importlib.metadata import version

from . import recognition

APPS = ("synapse.app.homeserver", "synapse.app.generic_worker")

LATE: tuple[str, ...] = ()
"""Modules that Synapse and its libraries import when they are first used."""

OPTIONAL = ("psycopg2", "txredisapi", "hiredis")
"""What a homeserver may do without: PostgreSQL and Redis."""


def load() -> str:
    """Imports Synapse and returns its version; raises whatever the import does."""
    # Nothing of this will ever be garbage; looking for some takes a third of the time.
    gc.disable()
    try:
        for name in APPS:
            importlib.import_module(name)
        for name in (*LATE, *OPTIONAL):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    finally:
        gc.enable()
    return version("matrix-synapse")


def problems() -> list[str]:
    """Why what was loaded must not be forked, one sentence each."""
    found = recognition.problems()
    if threading.active_count() > 1:
        names = ", ".join(sorted(thread.name for thread in threading.enumerate()))
        found.append(f"importing Synapse started threads, which a fork would not take along: {names}")
    return found


def freeze() -> None:
    """Takes all objects out of garbage collection, whose marks would make every page of every child its own."""
    gc.collect()
    gc.freeze()
