"""Calls between Synapse's processes, each on a connection of its own.

Synapse keeps idle ones for two minutes (`synapse/http/client.py`, ReplicationClient, 1.163.2), and Twisted
does not repeat a call with a body: one that is written just as its receiver closes the connection would be a
502 for a client.
"""

from __future__ import annotations

import importlib
from typing import Any


def make_plain() -> None:
    """Makes every pool that a ReplicationAgent is given one that keeps nothing."""
    agent = importlib.import_module("synapse.http.replicationagent").ReplicationAgent
    initialise = agent.__init__

    def with_plain_pool(self: Any, *arguments: Any, **options: Any) -> None:
        initialise(self, *arguments, **options)
        self._pool.persistent = False

    agent.__init__ = with_plain_pool
