"""Everything that a running main process or worker has loaded, loaded once, before the first fork.

Import only: no configuration, no logging, no database. What is forked must have one thread and hold nothing
open.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import threading
from importlib.metadata import version

from . import recognition

APPS = ("synapse.app.homeserver", "synapse.app.generic_worker")

LATE = (
    # Looked up by name when the first such text is read (configuration files).
    "encodings.unicode_escape",
    # Imported where a process turns out to have Redis, or media.
    "synapse.replication.tcp.redis",
    "synapse.rest.client.media",
    # Imported by the first connection to PostgreSQL, and by the first picture.
    "psycopg2.extras",
    "psycopg2.sql",
    "PIL.BmpImagePlugin",
    "PIL.GifImagePlugin",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.PpmImagePlugin",
)
"""What Synapse 1.163 and its libraries import when they first need it; what is not installed is not
missed.
"""


def load() -> str:
    """Imports Synapse and returns its version; raises whatever the import does."""
    for name in APPS:
        importlib.import_module(name)
    for name in LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    return version("matrix-synapse")


def problems() -> list[str]:
    """Why what was loaded must not be forked, one sentence each."""
    found = recognition.problems()
    if threading.active_count() > 1:
        names = ", ".join(sorted(thread.name for thread in threading.enumerate()))
        found.append(f"importing Synapse started threads, which a fork would not take along: {names}")
    return found


def freeze() -> None:
    """Takes all objects out of garbage collection, whose marks would make every page of every child its
    own.
    """
    gc.collect()
    gc.freeze()
