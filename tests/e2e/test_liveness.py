"""Processes that live and do not answer: found, shown, replaced; and the supervisor's own sign of life."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import Deployment, deployed, over_unix_socket, wait_for

from .test_crash import wait_for_another
from .test_overlap import routers

SPIN = "spin_in_a_circle"

# A module of Synapse's that runs in a circle for as long as the file of its process exists.
MODULE = f"""
import os

from twisted.internet import reactor


class Spinner:
    def __init__(self, config, api):
        self.path = os.path.join(config["directory"], f"spin-{{os.getpid()}}")
        self.look()

    def look(self):
        if os.path.exists(self.path):
            self.{SPIN}()
        reactor.callLater(0.05, self.look)

    def {SPIN}(self):
        while os.path.exists(self.path):
            pass
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Deployment]:
    deployment = Deployment("generic = 2\ntyping = 1")
    try:
        (deployment.directory / "spinner.py").write_text(MODULE, encoding="utf-8")
        place = deployment.directory
        deployment.extra = f"""health_timeout = "2s"
[units.generic]
environment = {{ PYTHONPATH = "{place}" }}
settings = {{ modules = [{{ module = "spinner.Spinner", config = {{ directory = "{place}" }} }}] }}
"""
        deployment.write()
        yield deployment.start().wait_ready()
    finally:
        deployment.close()


def pid_of(home: Deployment, unit: str) -> int:
    pid = home.pids()[unit]
    assert pid
    return pid


def stop(pid: int) -> None:
    """The signal has come when kill(2) returns; that all threads have seen it takes a moment longer."""
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    wait_for("the stop", lambda: stat.read_text().rpartition(")")[2].split()[0] == "T" or None)


def log_of(home: Deployment, unit: str) -> str:
    return (home.state / "logs" / f"{unit}.log").read_text(encoding="utf-8", errors="replace")


def moved(before: dict[str, int | None], home: Deployment) -> set[str]:
    after = home.pids()
    return {unit for unit in before if before[unit] != after[unit]}


# Mutations, each seen red: Input::Stuck not told to the core (it is never replaced); a process that is
# stopped asked as if it could answer (the reason lacks the word); SIGCONT left out (it is killed).
def test_a_worker_that_stands_still_is_replaced_and_nobody_else(home: Deployment) -> None:
    before = home.pids()
    restarts = home.unit("generic-1")["restarts"]
    pid = pid_of(home, "generic-1")
    stop(pid)
    try:
        wait_for_another(home, "generic-1", pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    unit = home.unit("generic-1")
    assert unit["restarts"] == restarts + 1
    assert "gave no answer to /health within 2s, 2 times in a row" in unit["reason"]
    assert "it is stopped" in unit["reason"]
    assert moved(before, home) == {"generic-1"}
    # Once it goes on it ends as it was told to, and lets go of its locks.
    said = home.tail(10**7)
    assert said.index("generic-1 is restarted: gave no answer") < said.rindex("generic-1 is ready")
    assert "generic-1 did not stop in time" not in said
    assert "versions" in home.client().call("GET", "/_matrix/client/versions")


# Mutations, each seen red: no stack asked for (src/run/liveness.rs); no SIGKILL of what is stuck
# (src/supervise/unit.rs: it is never replaced).
def test_a_worker_that_runs_in_a_circle_shows_where_before_it_is_replaced(home: Deployment) -> None:
    before = home.pids()
    pid = pid_of(home, "generic-2")
    (home.directory / f"spin-{pid}").touch()
    wait_for_another(home, "generic-2", pid)
    reason = home.unit("generic-2")["reason"]
    assert "gave no answer to /health" in reason
    assert "what its threads were doing stands in its log" in reason
    assert moved(before, home) == {"generic-2"}
    # A loop of Python's cannot follow SIGTERM.
    assert "generic-2 did not stop in time and is killed" in home.tail(10**7)
    # Nobody but itself can have written this, and so before its end.
    stack = log_of(home, "generic-2")
    assert re.search(
        rf'File ".*spinner.py", line \d+ in {SPIN}\n  File ".*spinner.py", line \d+ in look', stack
    )


def test_a_router_that_stands_still_is_replaced_and_answers_whom_it_had(home: Deployment) -> None:
    # Also one that has taken another's place, which has ended since.
    assert home.cli("restart", "router").returncode == 0
    wait_for("the old router to end", lambda: len(routers(home)) == 1 or None)
    before, pid = home.pids(), pid_of(home, "router")
    client = http.client.HTTPConnection("127.0.0.1", home.port, timeout=120)

    def answered() -> bool:
        response = client.getresponse()
        response.read()
        return response.status == 200

    client.request("GET", "/_matrix/client/versions")
    assert answered()
    stop(pid)
    try:
        client.request("GET", "/_matrix/client/versions")
        wait_for_another(home, "router", pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert answered()
    client.close()
    assert "gave no answer within 2s, 2 times in a row" in home.unit("router")["reason"]
    assert moved(before, home) == {"router"}
    assert "versions" in home.client().call("GET", "/_matrix/client/versions")


# Mutation: a dump that goes the way of who is stuck (src/run/liveness.rs): seen red.
def test_a_dump_shows_what_a_process_does_and_disturbs_nothing(home: Deployment) -> None:
    before, states = home.pids(), [home.unit(unit)["incarnation"] for unit in ("main", "typing-1")]
    for unit in ("main", "typing-1"):
        done = home.cli("dump", unit)
        assert done.returncode == 0, done
        assert "(most recent call first):" in done.stdout
        # The reactor waits for something to do, or does something.
        assert "/twisted/internet/" in done.stdout
        assert "/synapse/app/" in done.stdout
        assert done.stdout in log_of(home, unit)
    status, body = over_unix_socket(home.run / "control.sock", "POST", "/v1/dump", {"unit": "main"})
    assert status == 200
    assert b"most recent call first" in body
    assert moved(before, home) == set()
    assert states == [home.unit(unit)["incarnation"] for unit in ("main", "typing-1")]


def test_what_cannot_be_dumped_says_why_and_what_to_do(home: Deployment) -> None:
    def refused(unit: str) -> str:
        done = home.cli("dump", unit)
        assert done.returncode == 1, done
        return done.stderr

    assert "there is no unit genric-1" in refused("genric-1")
    assert "did you mean generic-1?" in refused("genric-1")
    assert "no process of Synapse" in refused("router")
    assert "synvisor logs router" in refused("router")
    assert home.cli("stop", "typing-1").returncode == 0
    assert "synvisor start typing-1" in refused("typing-1")
    assert home.cli("start", "typing-1").returncode == 0
    pid = pid_of(home, "typing-1")
    stop(pid)
    try:
        assert f"kill -CONT {pid}" in refused("typing-1")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert pid_of(home, "typing-1") == pid
    assert over_unix_socket(home.run / "control.sock", "POST", "/v1/dump", {"name": "main"})[0] == 400


# Mutation: keep_asking_all() left out of a reload (src/run/apply.rs): seen red (it is never replaced).
def test_a_reload_changes_who_is_asked_and_touches_nobody(home: Deployment) -> None:
    extra = home.extra
    home.extra = extra.replace('"2s"', '"0s"')
    home.write()
    assert home.cli("reload").returncode == 0
    assert home.cli("restart", "generic-1").returncode == 0
    before, pid = home.pids(), pid_of(home, "generic-1")
    stop(pid)
    try:
        home.extra = extra
        home.write()
        assert home.cli("reload").returncode == 0
        assert moved(before, home) == set()
        wait_for_another(home, "generic-1", pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert moved(before, home) == {"generic-1"}


class Manager:
    """What systemd hears, and at least so long that nobody who tells it something has to wait."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.said: list[str] = []
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self) -> None:
        while text := self.socket.recv(4096).decode():
            self.said.extend(text.splitlines())

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(self.path))
        self.thread.join()
        self.socket.close()


# Mutations, each seen red: Watchdog::due() that never comes; our environment passed on (src/run/spawn.rs); a
# process that was started plainly asked all the same (it ends, src/run/liveness.rs).
def test_systemd_hears_from_the_loop_and_no_child_hears_of_it(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "3000000"}
    try:
        with deployed("generic = 1", environment=environment, without=("bootstrap",)) as home:
            wait_for("READY", lambda: "READY=1" in manager.said or None)
            for _ in range(2):
                fed = manager.said.count("WATCHDOG=1")
                wait_for("a sign of life", lambda fed=fed: manager.said.count("WATCHDOG=1") > fed or None)
            for pid in home.pids().values():
                environ = Path(f"/proc/{pid}/environ").read_bytes()
                assert b"WATCHDOG_" not in environ
                assert str(manager.path).encode() not in environ
            # By the way: these are started plainly.
            before = home.pids()
            done = home.cli("dump", "generic-1")
            assert done.returncode == 1
            assert "started plainly" in done.stderr
            assert home.pids() == before
    finally:
        manager.close()


# Mutations, each seen red: no feed() before the new program; none after a look at the virtualenv; one there
# at every start.
def test_systemd_hears_of_an_upgrade_before_the_loop_goes_round(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    # So long that the loop itself says it once, when it begins.
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "3000000000"}
    try:
        with deployed("", environment=environment) as home:
            wait_for("READY", lambda: "READY=1" in manager.said or None)
            # From the first one on systemd waits for the next.
            assert "WATCHDOG=1" not in manager.said[: manager.said.index("FDNAME=control")]
            begun = len(manager.said)
            assert home.cli("self-upgrade", timeout=180).returncode == 0
            wait_for("another one", lambda: "FDNAME=control" in manager.said[begun:] or None)
            said = manager.said[begun:]
            assert said[: said.index("FDNAME=control")].count("WATCHDOG=1") == 2
    finally:
        manager.close()
