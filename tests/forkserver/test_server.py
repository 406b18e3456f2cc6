"""The server's side of the protocol: what it answers, whom it serves, what it forgets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .supervisor import APPS, BOOTSTRAP, LONG, Supervisor, interpreter, supervised, wait_for

# `make soak` makes more.
FORKS = int(os.environ.get("FORKS", "500"))
NOBODY = 65534
# Of Linux; the module does not name it.
SO_SNDBUFFORCE = 32


def test_it_says_what_it_can_fork(shared: Supervisor) -> None:
    version = subprocess.run(
        [interpreter(), "-c", "from importlib.metadata import version; print(version('matrix-synapse'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert shared.hello == {"type": "hello", "protocol": 1, "synapse": version, "problems": []}


def valid(supervisor: Supervisor, **changes: Any) -> dict[str, Any]:
    process = supervisor.process("plain_app", "facts")
    return {"type": "fork", "unit": "generic-1", "incarnation": 7, "process": process, **changes}


def answer(supervisor: Supervisor, message: object, descriptors: int = 3) -> dict[str, Any]:
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(descriptors)]
    try:
        supervisor.connection.send(message, opened)
    finally:
        for one in opened:
            os.close(one)
    return supervisor.connection.receive()


@pytest.mark.parametrize(
    ("message", "descriptors", "reason"),
    [
        (b"{", 0, "not JSON"),
        (b"\xff\xfe", 0, "not JSON"),
        (b"[" * 100_000, 0, "not JSON"),
        ([], 0, "list, not an object"),
        ({}, 3, "unknown type of message None"),
        ({"type": "spoon"}, 3, "unknown type of message 'spoon'"),
        ({"type": "fork"}, 3, "unit is missing"),
    ],
)
def test_a_message_that_cannot_be_followed_is_answered(
    shared: Supervisor, message: object, descriptors: int, reason: str
) -> None:
    answered = answer(shared, message, descriptors)
    assert (answered["type"], answered["unit"], answered["incarnation"]) == ("failed", None, None)
    assert reason in answered["reason"]


@pytest.mark.parametrize(
    ("changes", "descriptors", "reason"),
    [
        ({"process": None}, 3, "process must be an object"),
        ({"process": {}}, 3, "process.unit is missing"),
        ({}, 2, "2 descriptors came with the request, and it needs 3"),
        ({}, 0, "0 descriptors came"),
        ({}, 9, "9 descriptors came"),
        ({"arguments": "-c"}, 3, "process.arguments must be a list of strings"),
        ({"arguments": [1]}, 3, "process.arguments must be a list of strings"),
        ({"environment": {"A": 1}}, 3, "process.environment must be an object of strings"),
        ({"umask": True}, 3, "process.umask must be a number"),
        ({"nice": "0"}, 3, "process.nice must be a number"),
        ({"app": 5}, 3, "process.app must be a string"),
        ({"unit": "main"}, 3, "for generic-1 and its process for main"),
        ({"environment": {"LD_PRELOAD": "/j.so"}}, 3, "LD_PRELOAD has an effect only where a program begins"),
    ],
)
def test_a_request_that_cannot_be_followed_is_answered_by_name(
    shared: Supervisor, changes: dict[str, Any], descriptors: int, reason: str
) -> None:
    message = valid(shared)
    if "process" in changes:
        message["process"] = changes["process"]
    else:
        message["process"].update(changes)
    answered = answer(shared, message, descriptors)
    assert (answered["type"], answered["unit"], answered["incarnation"]) == ("failed", "generic-1", 7)
    assert reason in answered["reason"]
    child = shared.fork("plain_app", "exit", "0").go()
    assert child.wait() == 0, "the server goes on"


def test_a_message_that_is_too_long_is_answered() -> None:
    with supervised() as supervisor:
        supervisor.connection.socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 1 << 22)
        assert "not JSON" in answer(supervisor, valid(supervisor, more="x" * 300_000))["reason"]
        assert supervisor.fork("plain_app", "exit", "0").go().wait() == 0


def descriptors_of(supervisor: Supervisor) -> list[str]:
    directory = Path(f"/proc/{supervisor.server.pid}/fd")
    return sorted(os.readlink(entry) for entry in directory.iterdir())


# Mutation: Message.close() left out after a failed request: seen red.
def test_it_keeps_nothing_of_what_came_with_a_message(shared: Supervisor) -> None:
    before = descriptors_of(shared)
    for message in (b"{", valid(shared), {"type": "fork"}):
        answer(shared, message, 5)
    shared.fork("plain_app", "exit", "0").go().wait()
    assert descriptors_of(shared) == before


# Mutation: the older connection kept in force: seen red.
def test_the_newest_connection_is_in_force() -> None:
    with supervised() as supervisor:
        old = supervisor.connection
        supervisor.connection = supervisor.connect()
        assert supervisor.connection.receive() == supervisor.hello
        assert old.ended()
        assert supervisor.fork("plain_app", "exit", "0").go().wait() == 0


def test_it_outlives_a_connection() -> None:
    with supervised() as supervisor:
        supervisor.connection.close()
        supervisor.connection = supervisor.connect()
        assert supervisor.connection.receive() == supervisor.hello
        assert supervisor.fork("plain_app", "exit", "0").go().wait() == 0


CONNECT = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
print(s.recv(99))
"""


# Mutation: every uid accepted: seen red.
@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root")
def test_strangers_are_refused(shared: Supervisor) -> None:
    shared.directory.chmod(0o755)
    shared.path.chmod(0o666)
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", CONNECT, str(shared.path)],
        user=NOBODY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "b''\n", done.stderr
    assert f"refused a connection of user {NOBODY}" in shared.server_log()
    assert shared.fork("plain_app", "exit", "0").go().wait() == 0, "the connection in force is untouched"


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("twisted", "twisted.web.http.HTTPChannel.checkPersistence does not exist"),
        ("signature", "twisted.internet.unix.Port.__init__ does not take fileName, factory, reactor"),
        ("thread", "importing Synapse started threads"),
        ("import", "Synapse cannot be imported: ModuleNotFoundError"),
        ("descriptors", "a forked child has descriptors of the fork server open"),
        ("reactor", "a forked child shares its reactor's epoll instance with the fork server"),
        ("randomness", "two forked children drew the same from OpenSSL"),
        ("notify", "a forked child would announce itself at None, not where it was told to"),
    ],
)
def test_it_says_what_it_does_not_recognise(what: str, problem: str) -> None:
    """Each alteration is a mutation of the server, of Synapse or of Twisted; the server itself must see it
    red.
    """
    command = [interpreter(), "-I", "-B", str(APPS / "altered.py"), str(BOOTSTRAP), what]
    with supervised(command=command) as supervisor:
        problems = supervisor.hello["problems"]
        assert [one for one in problems if problem in one], (problems, supervisor.server_log())
        answered = answer(supervisor, valid(supervisor))
        assert answered["type"] == "failed"
        assert "this Synapse cannot be forked" in answered["reason"]


def test_it_ends_when_told_to() -> None:
    with supervised() as supervisor:
        child = supervisor.fork("plain_app", "wait").go()
        child.wait_text("waiting")
        supervisor.server.send_signal(signal.SIGTERM)
        assert supervisor.server.wait(LONG) == -signal.SIGTERM
        assert supervisor.connection.ended()
        child.kill(0)
        child.end()


PARENT = """
import json, sys, os
sys.path[:0] = json.loads(sys.argv[1])
from tests.forkserver.supervisor import Supervisor
supervisor = Supervisor()
child = supervisor.fork("plain_app", "wait").go()
child.wait_text("waiting")
waiting = supervisor.fork("plain_app", "wait")
print(json.dumps([supervisor.server.pid, child.pid, waiting.pid, str(supervisor.directory)]), flush=True)
os.kill(os.getpid(), 9)
"""


# Mutation: die_with_parent() left out in the server: seen red.
def test_server_and_who_has_not_begun_end_with_the_supervisor() -> None:
    done = subprocess.run(
        [interpreter(), "-c", PARENT, json.dumps(sys.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    server, begun, waiting, directory = json.loads(done.stdout)

    def gone(pid: int) -> int:
        return wait_for(f"the end of {pid}", lambda: os.waitpid(pid, os.WNOHANG)[0] or None)

    try:
        assert [gone(server), gone(waiting)] == [server, waiting]
        # The next supervisor takes it over.
        assert os.waitpid(begun, os.WNOHANG) == (0, 0)
    finally:
        os.kill(begun, signal.SIGKILL)
        gone(begun)
        shutil.rmtree(directory)


def memory(supervisor: Supervisor) -> int:
    """Private memory of the server, in KiB."""
    lines = Path(f"/proc/{supervisor.server.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty:", "Anonymous:")))


@pytest.mark.timeout(3600)
def test_many_forks_leave_nothing_behind(shared: Supervisor) -> None:
    def forks(count: int) -> None:
        """In groups, so that the processes of one overlap and the next process is not waited for each
        time.
        """
        for _ in range(count // 50):
            for child in [shared.fork("plain_app", "vanish").go() for _ in range(50)]:
                assert child.wait() == 0
                child.output.unlink()
                shared.children.remove(child)

    forks(200)
    descriptors, before = descriptors_of(shared), memory(shared)
    forks(FORKS)
    assert descriptors_of(shared) == descriptors
    children = Path(f"/proc/{shared.server.pid}/task/{shared.server.pid}/children").read_text(
        encoding="ascii"
    )
    assert children == "", "nothing is left to be reaped"
    # A page a fork would be more; the allocator's own play is below that.
    assert memory(shared) - before < max(1024, FORKS // 2)
