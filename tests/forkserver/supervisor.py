"""A stand-in for the supervisor: starts a fork server, orders processes from it, and is their parent."""

from __future__ import annotations

import array
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tests.support.toolchain import ROOT, prepare

BOOTSTRAP = ROOT / "src" / "forkserver" / "python"
APPS = Path(__file__).with_name("apps")
PR_SET_CHILD_SUBREAPER = 36
PADDING = "x" * 200

# A machine may be slow; the limit is there only so that a test ends at all.
LONG = 60.0

T = TypeVar("T")


def become_subreaper(on: bool = True) -> None:
    """What the supervisor is: the new parent of whoever loses his."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def wait_for(what: str, probe: Callable[[], T | None], seconds: float = LONG) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (answer := probe()) is not None:
            return answer
        time.sleep(0.01)
    raise AssertionError(f"timed out: {what}")


def interpreter() -> str:
    return str(prepare() / "bin" / "python")


def listening(path: Path) -> socket.socket:
    """A Unix socket as the supervisor binds it."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(path))
    path.chmod(0o660)
    bound.listen(1024)
    return bound


@dataclass
class Child:
    """A process that was ordered; its parent is the test."""

    pid: int
    go_pipe: int
    output: Path
    status: int | None = field(default=None)

    def go(self) -> Child:
        os.write(self.go_pipe, b"g")
        self.forget()
        return self

    def forget(self) -> None:
        """Closes the go pipe, as the supervisor's death would."""
        if self.go_pipe >= 0:
            os.close(self.go_pipe)
        self.go_pipe = -1

    def kill(self, number: int = signal.SIGTERM) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = LONG) -> int:
        """The exit status, negative for a signal, as subprocess has it."""
        if self.status is None:
            descriptor = os.pidfd_open(self.pid)
            try:
                waiting = select.poll()
                waiting.register(descriptor, select.POLLIN)
                assert waiting.poll(seconds * 1000), f"process {self.pid} does not end:\n{self.text()}"
            finally:
                os.close(descriptor)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def text(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def wait_text(self, wanted: str) -> str:
        def seen() -> str | None:
            text = self.text()
            if wanted in text:
                return text
            state = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
            assert state != "Z", f"the process ended without {wanted!r}:\n{text}"
            return None

        return wait_for(f"{wanted!r} in the output", seen)

    def end(self) -> None:
        self.forget()
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                self.kill(signal.SIGKILL)
            self.wait()


class Connection:
    """One connection to the server."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(LONG)
        self.socket.connect(str(path))

    def send(self, message: object, descriptors: Sequence[int] = ()) -> None:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        )
        self.socket.sendmsg([data], rights)

    def receive(self) -> dict[str, Any]:
        data = self.socket.recv(1 << 18)
        assert data, "the server closed the connection"
        answer: dict[str, Any] = json.loads(data)
        return answer

    def ended(self) -> bool:
        return self.socket.recv(1) == b""

    def close(self) -> None:
        self.socket.close()


class Supervisor:
    """A fork server in a directory of its own, and the processes that it was asked for."""

    def __init__(
        self, *, command: Sequence[str] | None = None, environment: dict[str, str] | None = None
    ) -> None:
        become_subreaper()
        self.directory = Path(tempfile.mkdtemp(prefix="svf", dir="/tmp"))
        self.path = self.directory / "forkserver.sock"
        self.log = self.directory / "forkserver.log"
        self.lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        self.children: list[Child] = []
        self.connections: list[Connection] = []
        self.incarnation = 0
        self.started = command or [interpreter(), "-I", "-B", str(BOOTSTRAP)]
        self.environment = environment or {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        self.server = self.start()
        self.connection = self.connect()
        self.hello = self.connection.receive()

    def start(self) -> subprocess.Popen[bytes]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, self.log.open("ab") as log:
            listener.bind(str(self.path))
            self.path.chmod(0o600)
            listener.listen(16)
            return run_with_descriptors(
                [*self.started, "server", "--supervisor-uid", str(os.getuid()), "--padding", PADDING],
                [listener.fileno()],
                log.fileno(),
                self.environment,
            )

    def connect(self) -> Connection:
        connection = Connection(self.path)
        self.connections.append(connection)
        return connection

    def process(self, app: str, /, *arguments: str, **changes: Any) -> dict[str, Any]:
        """The description of a process as the supervisor would send it."""
        return describe(self.directory, app, *arguments, **changes)

    def fork(
        self, app: str, /, *arguments: str, listeners: dict[Path, socket.socket] | None = None, **changes: Any
    ) -> Child:
        """Orders a process and waits for the answer; it has not been told to go yet."""
        sockets = listeners or {}
        changes = {"listeners": [str(path) for path in sockets], **changes}
        process = self.process(changes.pop("app", app), *arguments, **changes)
        self.incarnation += 1
        output = self.directory / f"{process['unit']}.{self.incarnation}.log"
        request = {
            "type": "fork",
            "unit": process["unit"],
            "incarnation": self.incarnation,
            "process": process,
        }
        reading, writing = os.pipe()
        written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        handed = [written, reading, self.lock, *(one.fileno() for one in sockets.values())]
        try:
            self.connection.send(request, handed)
            answer = self.connection.receive()
        finally:
            os.close(written)
            os.close(reading)
        if answer["type"] != "forked":
            os.close(writing)
        assert answer == {
            **answer,
            "type": "forked",
            "unit": process["unit"],
            "incarnation": self.incarnation,
        }
        child = Child(answer["pid"], writing, output)
        self.children.append(child)
        return child

    def server_log(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self.children:
            child.end()
        for connection in self.connections:
            connection.close()
        if self.server.poll() is None:
            self.server.terminate()
        self.server.wait(LONG)
        os.close(self.lock)
        shutil.rmtree(self.directory)


def describe(place: Path, app: str, /, *arguments: str, **changes: Any) -> dict[str, Any]:
    """A process that runs a module of apps/, with what a test wants to be different."""
    process: dict[str, Any] = {
        "unit": "generic-1",
        "app": app,
        "arguments": list(arguments),
        "listeners": [],
        "environment": {
            "HOME": "/",
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(APPS),
            "PYTHONUNBUFFERED": "1",
        },
        "directory": str(place),
        "umask": 0o027,
        "nice": 0,
        "stop_deadline_ms": 8000,
        "redis": False,
        "without": [],
    }
    process["environment"] = {**process["environment"], **changes.pop("environment", {})}
    return {**process, **changes}


def run_with_descriptors(
    command: Sequence[str], descriptors: Sequence[int], output: int, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    """Starts a program that finds descriptors from 3 on, as systemd and the supervisor hand them over."""
    # The copies lie above every place that is to be filled, so that none is overwritten before it is used.
    highest = 3 + len(descriptors)
    copies = [os.dup(one) for one in descriptors]

    def arrange() -> None:
        import fcntl

        high = [fcntl.fcntl(one, fcntl.F_DUPFD, highest + 100) for one in copies]
        for place, one in enumerate(high, start=3):
            os.dup2(one, place)
            os.close(one)
        os.closerange(highest, highest + 1000)

    try:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            close_fds=False,
            preexec_fn=arrange,
        )
    finally:
        for one in copies:
            os.close(one)


@contextlib.contextmanager
def supervised(**settings: Any) -> Iterator[Supervisor]:
    with Supervisor(**settings) as supervisor:
        yield supervisor
