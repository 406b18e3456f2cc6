"""Twisted's global reactor after a fork: the same object, since Synapse holds it everywhere, on descriptors
of its own.

Both processes would otherwise wait on one epoll instance and wake each other. Sources:
`twisted/internet/base.py`, `epollreactor.py` (26.10.0), `synapse/metrics/_reactor_metrics.py` (1.163.2).
"""

from __future__ import annotations

import importlib
import time
from typing import Any


def global_reactor() -> Any:
    """The reactor that `twisted.internet.reactor` names; the first call chooses it."""
    return importlib.import_module("twisted.internet.reactor")


def close(reactor: Any) -> None:
    """Closes what the reactor of the forking process had open, through the objects that own the descriptors.

    An epoll object that were left would close its number once more when it is forgotten, whosever it is by
    then.
    """
    for reader in list(reactor._internalReaders):
        reader.connectionLost(None)
    reactor._poller.close()


def renew(reactor: Any) -> None:
    """Puts a closed reactor into the state of a new one."""
    measured = reactor._poller
    reactor.__init__()
    # Synapse has wrapped the poller at import, to measure the reactor's ticks; its metrics know that wrapper.
    measured._wrapped = reactor._poller
    measured._wrapped_method._wrapped = reactor._poller.poll
    measured._wrapped_method.last_polled = time.time()
    reactor._poller = measured
