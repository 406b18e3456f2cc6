"""The fork server: imports Synapse once, and forks a process of it for each request.

It knows nothing of the processes that it made: they are the supervisor's children, and its own death takes
none along.
"""

from __future__ import annotations

import array
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any

from . import linux, preload, probe, protocol
from .child import Forked as ForkedChild
from .doublefork import double_fork
from .protocol import BEFORE_LISTENERS, Failed, Fork, Forked, Hello, Malformed

INT_BYTES = array.array("i").itemsize

ONLY_AT_EXEC = ("LD_", "GLIBC_TUNABLES", "MALLOC_", "PYTHONMALLOC", "SYNAPSE_ASYNC_IO_REACTOR")
"""Variables that are read before a request can be: by the loader, by malloc, and by Synapse's import."""


def serve(listener_descriptor: int, supervisor_uid: int) -> ForkedChild:
    """Serves for ever in the server; in each process that it forks it returns, with what that process is to
    become.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # There is nothing to clean up: the default ends the server, also in the middle of an import.
        signal.signal(number, signal.SIG_DFL)
    supervisor = os.getppid()
    linux.die_with_parent(signal.SIGTERM)
    if os.getppid() != supervisor:
        sys.exit(0)
    os.set_inheritable(listener_descriptor, False)
    hello = prepare()
    linux.set_title("synvisor-fork", f"synvisor: fork server for {sys.prefix}")
    server = Server(socket.socket(fileno=listener_descriptor), {0, os.getuid(), supervisor_uid}, hello)
    return server.run()


def prepare() -> Hello:
    """Loads Synapse, and says whether it can be forked."""
    try:
        version = preload.load()
    except Exception as error:
        return Hello("", [f"Synapse cannot be imported: {type(error).__name__}: {error}"])
    problems = preload.problems()
    if not problems:
        try:
            # Imported only here, since it builds on what a Synapse may not have.
            from . import certificates, rehearsal

            rehearsal.rehearse()
            certificates.share()
        except Exception as error:
            say(f"each process will prepare itself what one could for all: {type(error).__name__}: {error}")
        preload.freeze()
        problems = probe.problems()
    return Hello(version, problems)


class Server:
    """The loop. One connection is in force, the newest: a new supervisor does not wait for an old one to
    leave.
    """

    def __init__(self, listener: socket.socket, uids: set[int], hello: Hello) -> None:
        self.listener = listener
        self.uids = uids
        self.hello = hello
        self.connection: socket.socket | None = None
        self.parent = os.getppid()

    def run(self) -> ForkedChild:
        self.listener.setblocking(False)
        while True:
            waiting = select.poll()
            waiting.register(self.listener, select.POLLIN)
            if self.connection:
                waiting.register(self.connection, select.POLLIN)
            ready = {descriptor for descriptor, _ in waiting.poll()}
            if self.listener.fileno() in ready:
                self.accept()
            elif self.connection and self.connection.fileno() in ready and (child := self.receive()):
                self.close()
                return child

    def close(self) -> None:
        """Closes what a forked process must not hold."""
        self.listener.close()
        self.hang_up()

    def accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError as error:
            return say(f"a connection could not be accepted: {error}")
        uid = linux.peer(connection).uid
        if uid not in self.uids:
            connection.close()
            return say(
                f"refused a connection of user {uid}: only {sorted(self.uids)} may order processes here"
            )
        connection.setblocking(False)
        self.hang_up()
        self.connection = connection
        return self.send(self.hello)

    def hang_up(self) -> None:
        if self.connection:
            self.connection.close()
        self.connection = None

    def send(self, message: Hello | Forked | Failed) -> None:
        """Sends at once or hangs up: a supervisor that does not read has no use for answers."""
        if self.connection is None:
            return
        try:
            self.connection.send(protocol.encode(message))
        except OSError as error:
            say(f"hung up on the supervisor, which could not be answered: {error}")
            self.hang_up()

    def receive(self) -> ForkedChild | None:
        """Follows one message; returns a process in the forked one only."""
        assert self.connection
        try:
            message = Message.receive(self.connection)
        except OSError as error:
            say(f"hung up on the supervisor, which could not be read: {error}")
            self.hang_up()
            return None
        if not message.data and not message.descriptors:
            self.ended()
            return None
        child = self.follow(message)
        if child is None:
            message.close()
        return child

    def ended(self) -> None:
        """The supervisor closed the connection: it may connect again, unless it is dead."""
        self.hang_up()
        if os.getppid() != self.parent:
            sys.exit(0)

    def follow(self, message: Message) -> ForkedChild | None:
        """Answers a request; returns a process in the forked one only."""
        unit, incarnation = None, None
        try:
            content = protocol.decode_object(message.data)
            unit, incarnation = _named(content)
            request = protocol.decode_fork(content)
            self.check(request, message)
            pid = double_fork()
        except (Malformed, OSError) as problem:
            self.send(Failed(unit, incarnation, str(problem)))
            return None
        if pid is None:
            return ForkedChild(request, message.descriptors)
        self.send(Forked(request.unit, request.incarnation, pid))
        return None

    def check(self, request: Fork, message: Message) -> None:
        """Raises Malformed if a request cannot be followed."""
        if message.cut:
            raise Malformed(
                f"the message was cut: at most {protocol.MOST_BYTES} bytes "
                f"and {protocol.MOST_DESCRIPTORS} descriptors"
            )
        wanted = BEFORE_LISTENERS + len(request.process.listeners)
        if len(message.descriptors) != wanted:
            raise Malformed(
                f"{len(message.descriptors)} descriptors came with the request, and it needs {wanted}: "
                "output, go, lock and one for each listener"
            )
        if self.hello.problems:
            raise Malformed(f"this Synapse cannot be forked: {'; '.join(self.hello.problems)}")
        for name, value in request.process.environment.items():
            if name.startswith(ONLY_AT_EXEC) and os.environ.get(name) != value:
                raise Malformed(
                    f"{name} has an effect only where a program begins: start {request.unit} by itself"
                )


@dataclass(frozen=True)
class Message:
    """A datagram with what came along."""

    data: bytes
    descriptors: list[int]
    cut: bool
    """Whether a part of it did not fit and is lost."""

    @classmethod
    def receive(cls, connection: socket.socket) -> Message:
        """Raises OSError."""
        space = socket.CMSG_SPACE(protocol.MOST_DESCRIPTORS * INT_BYTES)
        data, ancillary, flags, _ = connection.recvmsg(protocol.MOST_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % INT_BYTES])
        return cls(data, list(descriptors), bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)))

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


def _named(content: dict[str, Any]) -> tuple[str | None, int | None]:
    """Whom a message is about, as far as it can be told, so that even a wrong one is answered by name."""
    unit, incarnation = content.get("unit"), content.get("incarnation")
    return (unit if isinstance(unit, str) else None), (incarnation if isinstance(incarnation, int) else None)


def say(text: str) -> None:
    """A line in the server's log."""
    print(f"synvisor's fork server: {text}", file=sys.stderr, flush=True)
