"""SIGTERM in a process of Synapse: what is in flight finishes first.

Synapse alone cuts every connection at once, which a caller in another process turns into a 502. Here the
process stops accepting (newcomers wait in the kernel for the next one), answers what it has begun with
`Connection: close`, and stops the reactor when its last connection is gone. Twisted's facts are those of
`twisted/web/http.py`, 26.10.0.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections import Counter
from typing import Any, cast

from twisted.internet import tcp
from twisted.web.http import HTTPChannel

from .inherited import InheritedPort

FIRST_REQUEST_GRACE = 1.0
"""Seconds for a connection that has not asked for anything yet: whoever just connected is about to."""

WORTH_A_WORD = 1.0
"""Seconds after which the log says what is being waited for."""

MOST_NAMED = 5
"""Requests that the log names."""

logger = logging.getLogger("synvisor.graceful_stop")


def install(reactor: Any, deadline: float) -> None:
    """Has SIGTERM and SIGINT drain, for at most `deadline` seconds, what Twisted would have cut.

    Before the reactor runs there is nothing to drain, and they end the process as ever.
    """
    drain = Drain(reactor, deadline)
    watch_connections(drain)

    def on_signal(number: int, frame: object = None) -> None:
        # Between two steps of the reactor, where no connection is half way through a change.
        reactor.callFromThread(drain.begin)

    # The reactor asks itself for these two when it starts (`twisted/internet/base.py`, _signalsFactory).
    reactor.sigTerm = reactor.sigInt = on_signal


def watch_connections(drain: Drain) -> None:
    """Tells the drain of every HTTP connection and of every request that begins on one."""
    kind: Any = HTTPChannel
    made, lost, check = kind.connectionMade, kind.connectionLost, kind.checkPersistence

    def connection_made(self: HTTPChannel) -> None:
        drain.opened(self)
        made(self)

    def connection_lost(self: HTTPChannel, reason: Any) -> None:
        lost(self, reason)
        drain.closed(self)

    def check_persistence(self: HTTPChannel, request: Any, version: bytes) -> bool:
        persistent: bool = check(self, request, version)
        return drain.asked(self, request, persistent)

    kind.connectionMade = connection_made
    kind.connectionLost = connection_lost
    kind.checkPersistence = check_persistence


class Drain:
    """Every open HTTP connection, and, once begun, the way to there being none."""

    def __init__(self, reactor: Any, deadline: float) -> None:
        self.reactor = reactor
        self.deadline = deadline
        self.draining = False
        self.connections: dict[HTTPChannel, bool] = {}
        """Whether a request was ever read from it."""
        self.timers: list[Any] = []

    def opened(self, channel: HTTPChannel) -> None:
        self.connections[channel] = False

    def asked(self, channel: HTTPChannel, request: Any, persistent: bool) -> bool:
        """A request's head was read; whether its connection may have another one."""
        self.connections[channel] = True
        if self.draining:
            say_close(request)
        return persistent and not self.draining

    def closed(self, channel: HTTPChannel) -> None:
        self.connections.pop(channel, None)
        self.finish_if_done()

    def begin(self) -> None:
        """A second signal changes nothing: the deadline is one, counted from the first."""
        if self.draining:
            return
        self.draining = True
        stop_accepting(self.reactor)
        for channel, has_asked in list(self.connections.items()):
            if channel.requests:
                finish_with_close(channel)
            elif has_asked:
                close_if_idle(channel)
        self.timers = [
            self.reactor.callLater(min(FIRST_REQUEST_GRACE, self.deadline), self.end_grace),
            self.reactor.callLater(WORTH_A_WORD, self.report),
            self.reactor.callLater(self.deadline, self.finish),
        ]
        self.finish_if_done()

    def end_grace(self) -> None:
        for channel in list(self.connections):
            if not channel.requests:
                close_if_idle(channel)

    def report(self) -> None:
        requests = [request for channel in self.connections for request in channel.requests]
        # Without the query, which may hold a token.
        names = Counter(f"{_text(one.method)} {_text(one.uri).partition('?')[0]}" for one in requests)
        shown = [f"{name} ({count})" for name, count in names.most_common(MOST_NAMED)]
        if len(names) > MOST_NAMED:
            shown.append(f"{len(names) - MOST_NAMED} more")
        logger.info(
            "Stopping; %d connections are still open, %d requests in flight, for at most %.1f s more: %s",
            len(self.connections),
            len(requests),
            self.deadline - WORTH_A_WORD,
            ", ".join(shown) or "none",
        )

    def finish_if_done(self) -> None:
        if self.draining and not self.connections:
            self.finish()

    def finish(self) -> None:
        for timer in self.timers:
            if timer.active():
                timer.cancel()
        self.timers.clear()
        # Closing what the deadline cut comes back here by way of `closed`, when the reactor has stopped.
        if not self.reactor._stopped:
            self.reactor.stop()


def stop_accepting(reactor: Any) -> None:
    """Leaves newcomers to the next process where there are others who hold the socket, and refuses them
    elsewhere.
    """
    ports: list[Any] = [reader for reader in reactor.getReaders() if isinstance(reader, tcp.Port)]
    for port in ports:
        if isinstance(port, InheritedPort):
            port.stopReading()  # type: ignore[no-untyped-call]
        else:
            # Whoever waits in a backlog that ends with us has been promised an answer.
            port.doRead()
            port.stopListening()


def finish_with_close(channel: HTTPChannel) -> None:
    """Lets what has begun on a connection end, and the connection with it."""
    channel.persistent = False
    for request in channel.requests:
        say_close(request)


def say_close(request: Any) -> None:
    """Tells the caller not to use the connection again, if the head of the answer has not left yet."""
    if not request.startedWriting:
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])


def close_if_idle(channel: HTTPChannel) -> None:
    """Closes a connection on which nothing was asked, unless something is there to be read.

    On a Unix socket no request is lost in between: after the shutdown the peer cannot send (it gets EPIPE),
    what it sent before is answered, and only then is there nothing left to lose.
    """
    connection, transport = _socket(channel), cast(Any, channel.transport)
    if channel._buffer or connection is None or _unread(connection):
        return
    if connection.family == socket.AF_UNIX:
        connection.shutdown(socket.SHUT_RD)
        if late := _all_unread(connection):
            # The end of input, which comes next, is of our own making, and not the peer's leaving.
            transport.stopReading()
            channel.dataReceived(late)
            if channel.requests:
                return
    channel.loseConnection()


def _socket(channel: HTTPChannel) -> socket.socket | None:
    """The socket below a connection, through TLS if need be; none if it is closed."""
    transport = channel.transport
    while transport is not None and not hasattr(transport, "socket"):
        transport = getattr(transport, "transport", None)
    return getattr(transport, "socket", None)


def _unread(connection: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    return False


def _all_unread(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(OSError):
        while part := connection.recv(1 << 16, socket.MSG_DONTWAIT):
            parts.append(part)
    return b"".join(parts)


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
