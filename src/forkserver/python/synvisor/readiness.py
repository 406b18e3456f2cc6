"""READY that means it: a process of Synapse says so before it is connected to Redis.

Until then it hears of no change that another process makes, and serves what its caches hold
(`synapse/app/_base.py`, start; `synapse/replication/tcp/handler.py`, new_connection; 1.163.2).
"""

from __future__ import annotations

import importlib
from typing import Any


def await_replication() -> None:
    """Holds back the word READY until the process has had its first connection to Redis."""
    base: Any = importlib.import_module("synapse.app._base")
    handler: Any = importlib.import_module("synapse.replication.tcp.handler").ReplicationCommandHandler
    notify, new_connection = base.sdnotify, handler.new_connection
    connected, held = False, list[bytes]()

    def notify_when_connected(state: bytes) -> None:
        if connected or not state.startswith(b"READY=1"):
            notify(state)
        else:
            held.append(state)

    def connection_made(self: Any, connection: Any) -> None:
        nonlocal connected
        new_connection(self, connection)
        connected = True
        while held:
            notify(held.pop())

    base.sdnotify = notify_when_connected
    handler.new_connection = connection_made
