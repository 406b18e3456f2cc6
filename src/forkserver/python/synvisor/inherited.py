"""Listeners that the supervisor holds: while a process is away, connections wait in them for the next one."""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet import tcp, unix
from twisted.python.failure import Failure


class InheritedPort(unix.Port):
    """A listening Unix socket of which others have copies, and whose path is not ours.

    Twisted's own `adoptStreamPort` will not do (`twisted/internet/unix.py`, 26.10.0): it opens the path to
    everyone (chmod 0666) and cuts the backlog to 50 when it starts, and shuts the socket down for all its
    holders and unlinks the path when it closes.
    """

    _shouldShutdown = False

    def startListening(self) -> None:
        factory: Any = self.factory
        factory.doStart()
        held = self._preexistingSocket
        assert held, "a port of this kind is made by adopt()"
        self._preexistingSocket = None
        self.socket = held
        self.fileno = held.fileno  # type: ignore[method-assign]
        self.connected = True
        self.numberAccepts = 100
        self.startReading()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:
        tcp.Port.connectionLost(self, reason)


def adopt(reactor: Any, descriptors: dict[str, int]) -> None:
    """Has `listenUNIX` take the descriptor that was handed over for a path; other paths are bound as ever."""
    bind = reactor.listenUNIX

    def listen(address: str | bytes, factory: Any, *arguments: Any, **options: Any) -> Any:
        descriptor = descriptors.pop(os.fsdecode(address), None)
        if descriptor is None:
            return bind(address, factory, *arguments, **options)
        held = socket.socket(fileno=descriptor)
        held.setblocking(False)
        port = InheritedPort(held.getsockname(), factory, reactor=reactor)
        port._preexistingSocket = held
        port.startListening()
        return port

    reactor.listenUNIX = listen
