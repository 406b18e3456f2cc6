"""A trial before the first process: two children, made as real ones are, tell what they find themselves to
be.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import secrets
import select
import signal
import ssl
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from . import child, twisted_reactor
from .protocol import Process

TIME_LIMIT_MS = 20_000
"""For one of them; it takes milliseconds, and a server that waits for ever would be worse than a wrong
answer.
"""

NOTIFY_SOCKET = "/synvisor/probe"
"""Where nothing is sent to: to be found again in the child's Synapse."""


@dataclass(frozen=True)
class Findings:
    """What a child found."""

    epoll: bool
    """Its reactor waits on an epoll instance that it does not share."""
    timer: bool
    """Its reactor runs, calls and stops."""
    strays: list[str]
    """What is open that should not be."""
    notify: str
    """Where Synapse would announce that it is ready."""
    randomness: dict[str, str]
    """A draw from each source."""


def problems() -> list[str]:
    """Why a fork of this server would not be a sound process, one sentence each."""
    try:
        first, second = ask_child(), ask_child()
    except (OSError, ValueError, TypeError, TimeoutError) as error:
        return [f"a trial child did not tell what it found ({error}); the fork server's log may say more"]
    return list(dict.fromkeys([*judge(first), *judge(second), *compare(first, second)]))


def judge(found: Findings) -> Iterator[str]:
    """What is wrong with one child."""
    if not found.epoll:
        yield "a forked child shares its reactor's epoll instance with the fork server"
    if not found.timer:
        yield "the reactor of a forked child does not run"
    if found.strays:
        yield f"a forked child has descriptors of the fork server open: {', '.join(found.strays)}"
    if found.notify != NOTIFY_SOCKET:
        yield f"a forked child would announce itself at {found.notify!r}, not where it was told to"


def compare(first: Findings, second: Findings) -> Iterator[str]:
    """What is wrong between two children."""
    for source, drawn in first.randomness.items():
        if second.randomness.get(source) == drawn:
            yield f"two forked children drew the same from {source}"


def ask_child() -> Findings:
    """Forks one child and returns what it found; raises OSError, ValueError, TypeError or TimeoutError."""
    # A source that was not used has no state that a child could share.
    draw()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            report(writing)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    try:
        answer = read_all(reading, TIME_LIMIT_MS)
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return Findings(**json.loads(answer))


def report(writing: int) -> None:
    """Becomes what a process of Synapse becomes, as far as that is the same for all, and tells what it
    found.
    """
    # The child's own log is the server's.
    child.let_go(os.dup(2), {writing})
    child.take_place(Process("probe", "", (), (), {"NOTIFY_SOCKET": NOTIFY_SOCKET}, "/", 0o27, 0, 0, False))
    reactor = twisted_reactor.global_reactor()
    twisted_reactor.renew(reactor)
    called: list[bool] = []
    reactor.callLater(0, called.append, True)
    reactor.callLater(0, reactor.stop)
    own = {0, 1, 2, writing, reactor._poller.fileno(), reactor.waker.i, reactor.waker.o}
    strays = list(open_descriptors(own))
    epoll = watched(reactor._poller.fileno()) == [reactor.waker.i]
    reactor.run(installSignalHandlers=False)
    notify = importlib.import_module("synapse.app._base").sdnotify_sockaddr
    found = Findings(epoll, bool(called), strays, notify, draw())
    os.write(writing, json.dumps(asdict(found)).encode())


def watched(epoll: int) -> list[int]:
    """The descriptors that an epoll instance waits for; a shared one would show those of both processes."""
    try:
        lines = Path(f"/proc/self/fdinfo/{epoll}").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []
    return [int(line.split()[1]) for line in lines if line.startswith("tfd:")]


def draw() -> dict[str, str]:
    """A few bytes from every source of randomness that Synapse uses."""
    return {
        "random": f"{random.getrandbits(64):x}",
        "uuid.uuid4": uuid.uuid4().hex,
        "secrets": secrets.token_hex(8),
        "OpenSSL": ssl.RAND_bytes(8).hex(),
    }


def open_descriptors(expected: set[int]) -> Iterator[str]:
    """What else is open: number and kind."""
    for entry in Path("/proc/self/fd").iterdir():
        # The one by which the directory is being read is gone by the time it is looked at.
        if int(entry.name) not in expected and entry.is_symlink():
            yield f"{entry.name} ({os.readlink(entry)})"


def read_all(descriptor: int, limit_ms: int) -> bytes:
    """Everything up to the end, unless that takes longer than the limit; raises TimeoutError."""
    parts: list[bytes] = []
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    while waiting.poll(limit_ms):
        if not (part := os.read(descriptor, 1 << 16)):
            return b"".join(parts)
        parts.append(part)
    raise TimeoutError(f"no answer in {limit_ms / 1000:.0f} s")
