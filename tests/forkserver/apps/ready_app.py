"""Says what Synapse says when it starts, and has its connection to Redis only when a file appears."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from synapse.app import _base
from synapse.replication.tcp.handler import ReplicationCommandHandler


class Handler(ReplicationCommandHandler):
    """As much of it as a new connection needs."""

    def __init__(self) -> None:
        self._connections = []
        self._factory = None
        self._clock: Any = self
        self._presence_handler: Any = self

    def time_msec(self) -> int:
        return 0

    def get_currently_syncing_users_for_replication(self) -> list[Any]:
        return []


def main() -> None:
    (when,) = sys.argv[1:]
    _base.sdnotify(b"X_STARTING=1")
    _base.sdnotify(b"READY=1")
    print("has said it", flush=True)
    while not Path(when).exists():
        time.sleep(0.005)
    handler: Any = Handler()
    for _ in range(2):
        handler.new_connection("connection")
    # As after SIGHUP.
    _base.sdnotify(b"READY=1\nX_AGAIN=1")
    print(handler._connections, flush=True)
