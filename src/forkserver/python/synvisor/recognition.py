"""Whether this Synapse and Twisted have what the changes to them rely on.

Where something is missing or has another shape, the answer is a sentence for each, and synvisor starts
Synapse as anyone would: slower to start, and without a graceful stop.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Needed:
    """An attribute of a module, by its dotted path, and the parameters that it must take."""

    module: str
    path: str
    parameters: tuple[str, ...] = ()


NEEDED = (
    Needed("synapse.app.homeserver", "main"),
    Needed("synapse.app.generic_worker", "main"),
    Needed("synapse.app._base", "sdnotify_sockaddr"),
    Needed("synapse.app._base", "sdnotify", ("state",)),
    Needed("synapse.app._base", "listen_unix", ("path", "mode", "factory")),
    Needed("synapse.http.site", "SynapseProtocol"),
    Needed("synapse.http.replicationagent", "ReplicationAgent.__init__", ("self", "reactor", "pool")),
    Needed(
        "synapse.replication.tcp.handler",
        "ReplicationCommandHandler.new_connection",
        ("self", "connection"),
    ),
    Needed("synapse.metrics._reactor_metrics", "ObjWrapper"),
    Needed("twisted.internet.epollreactor", "EPollReactor"),
    Needed("twisted.internet.base", "ReactorBase._signalsFactory", ("self",)),
    Needed("twisted.internet.base", "ReactorBase.callFromThread"),
    Needed("twisted.internet.base", "ReactorBase._stopped"),
    Needed("twisted.internet.posixbase", "PosixReactorBase.listenUNIX", ("self", "address", "factory")),
    Needed("twisted.internet.tcp", "Port.connectionLost", ("self", "reason")),
    Needed("twisted.internet.tcp", "Port.doRead", ("self",)),
    Needed("twisted.internet.unix", "Port.__init__", ("self", "fileName", "factory", "reactor")),
    Needed("twisted.internet.unix", "Port.startListening", ("self",)),
    Needed("twisted.web.http", "HTTPChannel.connectionMade", ("self",)),
    Needed("twisted.web.http", "HTTPChannel.connectionLost", ("self", "reason")),
    Needed("twisted.web.http", "HTTPChannel.checkPersistence", ("self", "request", "version")),
    Needed("twisted.web.http", "HTTPChannel.loseConnection", ("self",)),
    Needed("twisted.web.http", "HTTPChannel.persistent"),
    Needed("twisted.web.http", "HTTPChannel._buffer"),
    Needed("twisted.web.client", "_AgentBase.__init__", ("self", "reactor", "pool")),
    Needed("twisted.web.client", "HTTPConnectionPool.__init__", ("self", "reactor", "persistent")),
)


def problems() -> list[str]:
    """What is not as expected, one sentence each."""
    return [*_missing(), *_reactor(), *_protocol()]


def _missing() -> Iterator[str]:
    for needed in NEEDED:
        name = f"{needed.module}.{needed.path}"
        try:
            found: Any = importlib.import_module(needed.module)
            for part in needed.path.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError):
            yield f"{name} does not exist"
            continue
        if needed.parameters:
            taken = inspect.signature(found).parameters
            if lacking := [parameter for parameter in needed.parameters if parameter not in taken]:
                yield f"{name} does not take {', '.join(lacking)}"


def _reactor() -> Iterator[str]:
    reactor = importlib.import_module("twisted.internet.reactor")
    kind = f"{type(reactor).__module__}.{type(reactor).__name__}"
    if kind != "twisted.internet.epollreactor.EPollReactor":
        yield f"the reactor is {kind}, not Twisted's epoll reactor"
        return
    for name in ("_poller", "_internalReaders", "sigTerm", "sigInt", "waker"):
        if not hasattr(reactor, name):
            yield f"the reactor has no {name}"
    poller = getattr(reactor, "_poller", None)
    if not hasattr(getattr(poller, "_wrapped_method", None), "last_polled"):
        yield "Synapse does not measure the reactor's poller as synapse.metrics._reactor_metrics did in 1.163"


def _protocol() -> Iterator[str]:
    """Connections are watched through methods that a subclass must not replace."""
    channel = importlib.import_module("twisted.web.http").HTTPChannel
    used = getattr(importlib.import_module("synapse.http.site"), "SynapseProtocol", None)
    if used is None:
        return
    if not issubclass(used, channel):
        yield "synapse.http.site.SynapseProtocol is not a twisted.web.http.HTTPChannel"
    elif getattr(used, "checkPersistence", None) is not getattr(channel, "checkPersistence", None):
        yield "synapse.http.site.SynapseProtocol has a checkPersistence of its own"
