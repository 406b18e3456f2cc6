"""What a forked process is: its own descriptors, place and name, and the end of a plainly started one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .supervisor import APPS, BOOTSTRAP, Supervisor, describe, interpreter, listening, run_with_descriptors

# Of the reactor that every process has: an epoll instance and a pipe to wake it.
REACTOR = ["anon_inode:[eventpoll]", "pipe", "pipe"]


def facts(supervisor: Supervisor, **changes: Any) -> dict[str, Any]:
    child = supervisor.fork("plain_app", "facts", **changes).go()
    assert child.wait() == 0, child.text()
    found: dict[str, Any] = json.loads(child.text().splitlines()[0])
    return found


def kinds(descriptors: dict[str, str]) -> list[str]:
    return sorted(
        name.partition(":[")[0] if name.startswith("pipe") else name for name in descriptors.values()
    )


# Mutation: linux.close_all_but() left out: seen red, and so was the server's own probe.
def test_only_its_own_descriptors_are_open(shared: Supervisor) -> None:
    path = shared.directory / "handed.sock"
    with listening(path) as handed:
        child = shared.fork("plain_app", "facts", listeners={path: handed}).go()
        assert child.wait() == 0, child.text()
        found = json.loads(child.text().splitlines()[0])["descriptors"]
        inode = os.fstat(handed.fileno()).st_ino
    assert {found[str(number)] for number in (1, 2)} == {str(child.output)}
    expected = ["/dev/null", str(child.output), str(child.output), str(shared.directory / "lock")]
    assert kinds(found) == sorted([*expected, *REACTOR, f"socket:[{inode}]"])


# Mutation: os.environ.clear() left out: seen red (LANG of the server).
def test_the_place_is_the_one_that_was_asked_for(shared: Supervisor) -> None:
    wanted = {"HOME": "/nowhere", "PYTHONPATH": str(APPS), "SYNAPSE_CACHE_FACTOR": "2.0"}
    found = facts(shared, environment=wanted, umask=0o077, nice=5, directory="/")
    assert found["environment"] == {**found["environment"], **wanted}
    assert set(found["environ"]) == {*wanted, "PATH", "PYTHONUNBUFFERED"}
    assert (found["directory"], found["umask"], found["nice"]) == ("/", 0o077, 5)
    assert found["argv"] == ["plain_app", "facts"]
    assert found["session"], "it is the leader of a session of its own"
    assert found["parent"] == os.getpid()
    assert (found["threads"], found["blocked"], found["term"]) == (1, 0, True)


# Mutation: the memory of the arguments not overwritten: seen red.
def test_its_title_says_what_it_is(shared: Supervisor) -> None:
    child = shared.fork("plain_app", "wait", unit="federation_sender-12").go()
    child.wait_text("waiting")
    command = Path(f"/proc/{child.pid}/cmdline").read_bytes().rstrip(b"\0")
    assert command == b"synapse: federation_sender-12 plain_app wait"
    assert Path(f"/proc/{child.pid}/comm").read_text(encoding="ascii") == "federation_send\n"
    child.end()


def test_a_title_that_does_not_fit_is_cut(shared: Supervisor) -> None:
    child = shared.fork("plain_app", "wait", "x" * 4000).go()
    child.wait_text("waiting")
    command = Path(f"/proc/{child.pid}/cmdline").read_bytes()
    assert command.startswith(b"synapse: generic-1 plain_app wait xxx")
    assert len(command) < 1000
    assert b"NOTIFY" not in command, "it does not run into the environment"
    child.end()


ENDINGS = [
    (["exit", "0"], 0),
    (["exit", "1"], 1),
    (["exit", "2"], 2),
    (["raise"], 1),
    (["kill", "9"], -signal.SIGKILL),
    (["kill", "15"], -signal.SIGTERM),
    (["nothing"], 0),
]


# Mutation: os._exit(0) after main(): seen red.
@pytest.mark.parametrize(("arguments", "status"), ENDINGS, ids=lambda value: str(value))
def test_it_ends_as_a_plain_process_does(shared: Supervisor, arguments: list[str], status: int) -> None:
    plain = subprocess.run(
        [interpreter(), "-c", "import plain_app; plain_app.main()", *arguments],
        env={"PYTHONPATH": str(APPS)},
        cwd=shared.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    child = shared.fork("plain_app", *arguments).go()
    assert (child.wait(), plain.returncode) == (status, status)
    assert ("atexit ran" in child.text()) == ("atexit ran" in plain.stdout) == (status >= 0)
    assert ("RuntimeError: as ordered" in child.text()) == ("RuntimeError: as ordered" in plain.stderr)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"directory": "/nowhere"}, "FileNotFoundError"), ({"app": "no_such_app"}, "ModuleNotFoundError")],
)
def test_what_fails_before_main_says_so_in_its_output(
    shared: Supervisor, changes: dict[str, Any], said: str
) -> None:
    child = shared.fork("plain_app", "facts", **changes).go()
    assert child.wait() == 1
    assert "Traceback" in child.text()
    assert said in child.text()


# Mutation: an EOF taken for the byte: seen red.
def test_it_waits_for_its_byte_and_leaves_without_one(shared: Supervisor) -> None:
    child = shared.fork("plain_app", "exit", "3")
    assert Path(f"/proc/{child.pid}").exists()
    child.forget()
    assert child.wait() == 0
    assert child.text() == "", "the app has not run"


def test_its_death_is_its_own(shared: Supervisor) -> None:
    """A signal that reaches it before it may go ends it, and not the server."""
    child = shared.fork("plain_app", "wait")
    child.kill()
    assert child.wait() == -signal.SIGTERM
    assert shared.server.poll() is None


def request(supervisor: Supervisor) -> dict[str, Any]:
    process = supervisor.process("plain_app", "facts")
    return {"type": "fork", "unit": process["unit"], "incarnation": 99, "process": process}


def test_started_by_exec_it_finds_its_descriptors(tmp_path: Path) -> None:
    """The first fallback: no fork server, and the same process otherwise."""
    path = tmp_path / "a.sock"
    output = tmp_path / "output"
    process = describe(tmp_path, "plain_app", "facts", listeners=[str(path)])
    with listening(path) as handed, output.open("ab") as written, (tmp_path / "lock").open("w") as lock:
        started = run_with_descriptors(
            [interpreter(), "-I", "-B", str(BOOTSTRAP), "child", json.dumps(process)],
            [lock.fileno(), handed.fileno()],
            written.fileno(),
            process["environment"],
        )
        assert started.wait(60) == 0, output.read_text(encoding="utf-8")
        inode = os.fstat(handed.fileno()).st_ino
    found = json.loads(output.read_text(encoding="utf-8").splitlines()[0])
    expected = ["/dev/null", str(output), str(output), str(tmp_path / "lock")]
    assert kinds(found["descriptors"]) == sorted([*expected, *REACTOR, f"socket:[{inode}]"])
    assert found["command"] == "synapse: generic-1 plain_app facts", "the environment is not in sight"
    assert found["argv"] == ["plain_app", "facts"]


# Mutation: the check left out of run_checked(): seen red.
def test_started_by_exec_it_asks_for_a_plain_start_where_it_does_not_recognise_synapse(
    tmp_path: Path,
) -> None:
    process = describe(tmp_path, "plain_app", "facts")
    output = tmp_path / "output"
    with output.open("ab") as written, (tmp_path / "lock").open("w") as lock:
        started = run_with_descriptors(
            [
                interpreter(),
                "-I",
                "-B",
                str(APPS / "altered.py"),
                str(BOOTSTRAP),
                "twisted",
                "child",
                json.dumps(process),
            ],
            [lock.fileno()],
            written.fileno(),
            process["environment"],
        )
        assert started.wait(60) == 70
    assert (
        output.read_text(encoding="utf-8") == "twisted.web.http.HTTPChannel.checkPersistence does not exist\n"
    )


def test_a_process_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [interpreter(), "-I", "-B", str(BOOTSTRAP), "child", "{}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "unit is missing" in done.stderr


def test_the_helper_hands_descriptors_over_in_order(tmp_path: Path) -> None:
    """The stand-in itself: what the tests above rely on."""
    left, right = socket.socketpair()
    with left, right, (tmp_path / "out").open("ab") as output:
        started = run_with_descriptors(
            ["/bin/ls", "-l", "/proc/self/fd"], [left.fileno(), right.fileno()], output.fileno(), {}
        )
        assert started.wait(60) == 0
        text = (tmp_path / "out").read_text(encoding="utf-8")
        assert f"3 -> socket:[{os.fstat(left.fileno()).st_ino}]" in text
        assert f"4 -> socket:[{os.fstat(right.fileno()).st_ino}]" in text


# Mutation: the os._exit() of end() left out, threading's step, and the flush of stdout: each seen red.
def test_it_ends_completely_but_is_not_taken_apart(shared: Supervisor) -> None:
    """Taking apart writes to every page that it shares."""
    child = shared.fork("plain_app", "thread").go()
    assert child.wait() == 0
    text = child.text()
    assert "the thread has ended" in text
    assert "atexit ran" in text
    assert "not flushed" in text
    assert "taken apart" not in text


# Mutations, each seen red: the handler left out (the signal is the end of it); registered before
# default_signals(); the present thread alone.
def test_it_shows_the_stack_of_every_thread_and_goes_on(shared: Supervisor) -> None:
    until = shared.directory / "until"
    child = shared.fork("plain_app", "spin", str(until)).go()
    child.wait_text("spinning")
    os.kill(child.pid, signal.SIGUSR2)
    child.wait_text("in spin")
    child.wait_text("in hold")
    until.touch()
    assert child.wait() == 0, child.text()


def alone(text: str, *, nice: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a program that may import the bootstrap."""
    program = f"import sys\nsys.path.insert(0, {str(BOOTSTRAP)!r})\n{text}"
    command = ["nice", "-n", str(nice), interpreter(), "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# Mutation: the `except` of the process in the middle left out: seen red (two come out, or three).
@pytest.mark.parametrize("broken", ["os.write", "os.close"])
def test_nobody_but_the_server_comes_out_of_a_fork_that_fails(broken: str) -> None:
    done = alone(f"""
import os
from synvisor.doublefork import double_fork
server, plain = os.getpid(), {broken}
def breaking(*arguments):
    if os.getpid() != server:
        raise BrokenPipeError("as if the server were gone")
    return plain(*arguments)
{broken} = breaking
try:
    double_fork()
except OSError as error:
    print("failed:", error)
print("out")
""")
    assert done.stdout == "failed: the new process ended before it began\nout\n", done


# Mutation: the priority set whenever it differs: seen red.
def test_a_process_is_not_less_nice_than_its_server() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for wanted in (0, 7):
        got = max(own + 5, wanted)
        done = alone(
            f"""
import os
from synvisor import child
from synvisor.protocol import Process
child.take_place(Process("x", "", (), (), dict(PATH="/bin"), "/", 0o27, {wanted}, 0, False))
print(os.getpriority(os.PRIO_PROCESS, 0))
""",
            nice=5,
        )
        assert done.stdout == f"{got}\n", done
