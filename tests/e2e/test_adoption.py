"""A supervisor that is killed: what it ran goes on, and the next one takes that over and nothing else."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import LIVELY, Deployment, command_line, deployed, wait_for
from tests.support.orphans import holders, stat
from tests.support.traffic import UNLIMITED, Traffic

from .test_crash import wait_for_another
from .test_overlap import Poll
from .test_restarts import nothing_failed, nothing_lost, shown

pytestmark = [pytest.mark.timeout(1800), pytest.mark.busy]

# How often the supervisor dies under load, and over whom; `KILLS=100` takes half an hour or more.
KILLS = int(os.environ.get("KILLS", "4"))
WORKERS = os.environ.get("WORKERS", "generic = 1\nevents = 1\nfederation_sender = 1\nmedia_repository = 1")


@pytest.fixture(scope="module")
def home() -> Iterator[Deployment]:
    with deployed(WORKERS, synapse=UNLIMITED + LIVELY) as deployment:
        yield deployment


def killed(home: Deployment) -> dict[str, int | None]:
    """The processes that it leaves."""
    before = home.pids()
    home.kill()
    return before


def is_new(unit: str) -> bool:
    """What a fork server makes becomes a child of its own supervisor: another one has another."""
    return unit == "forkserver"


def test_a_supervisor_that_is_killed_costs_no_request(home: Deployment) -> None:
    # Mutations: the router's sockets bound anew instead of taken back (src/run/start.rs): another router,
    # seen red; the router told that everybody is away (src/run/routers.rs): the load never ends.
    with Traffic(home.port) as traffic:
        traffic.breathe()
        for kill in range(KILLS):
            traffic.phase(f"kill {kill}")
            before = killed(home)
            traffic.breathe()
            home.start().wait_ready()
            after = home.pids()
            assert {unit for unit in before if before[unit] != after[unit]} == {"forkserver"}
            traffic.breathe()
        report = traffic.stop()
    print(f"{KILLS} SIGKILLs of the supervisor: {report['failed']} of {report['requests']} requests failed")
    nothing_failed(report)


def listeners(home: Deployment) -> dict[str, str]:
    """The inode of every listening Unix socket by its path, which has another when it is bound anew."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()]
    # __SO_ACCEPTCON in linux/net.h.
    found = [line[6:] for line in lines if len(line) == 8 and line[3] == "00010000"]
    return {path: inode for inode, path in found if path.startswith(f"{home.run}/")}


def test_what_was_taken_over_restarts_like_anything_else(home: Deployment) -> None:
    # Mutation: sockets of units not copied (src/run/adopt.rs): bound anew, seen red.
    killed(home)
    home.start().wait_ready()
    before, sockets = home.pids(), listeners(home)
    with Traffic(home.port) as traffic:
        traffic.breathe()
        for unit in ("main", "events-1", "generic-1"):
            done = home.cli("restart", unit)
            assert done.returncode == 0, done
        done = home.cli("restart", "--all", "--at-once")
        assert done.returncode == 0, done
        traffic.breathe()
        report = traffic.stop()
    assert report["failed"] == 0, shown(report)
    nothing_lost(report)
    after = home.pids()
    others = {"postgres", "redis", "forkserver", "router"}
    assert {unit for unit in before if before[unit] == after[unit]} == others
    # In between whoever calls a process waits at the same socket.
    assert listeners(home) == sockets


def test_who_dies_while_nobody_looks_is_back_with_the_next_supervisor(home: Deployment) -> None:
    # Mutation: what was noted taken for alive, without a look (src/run/adopt.rs): nobody answers, seen red.
    before = killed(home)
    dead = ("generic-1", "main", "router", "redis")
    for unit in dead:
        pid = before[unit]
        assert pid
        os.kill(pid, signal.SIGKILL)
    home.start().wait_ready()
    after = home.pids()
    assert {unit for unit in before if before[unit] != after[unit]} == {*dead, "forkserver"}
    assert "versions" in home.client().call("GET", "/_matrix/client/versions")


def test_the_end_of_what_was_taken_over_is_noticed(home: Deployment) -> None:
    # Mutation: no watch on processes that are not our children (src/run/processes.rs): never back, seen red.
    killed(home)
    home.start().wait_ready()
    before = home.pids()
    for unit in ("generic-1", "router", "redis"):
        pid = before[unit]
        assert pid
        os.kill(pid, signal.SIGKILL)
        wait_for(f"{unit} is back", lambda unit=unit: (home.pids()[unit] not in (None, before[unit])) or None)
    home.wait_ready()
    assert home.unit("generic-1")["restarts"] == 1


def test_a_router_that_is_killed_costs_only_what_it_had(home: Deployment) -> None:
    # Mutation: the listening sockets closed with it (src/run/children.rs): reset, seen red.
    user = home.client().register("router-user", "a password")
    poll = Poll(home, user)
    before = home.unit("router")
    os.kill(before["pid"], signal.SIGKILL)
    # It was not accepted yet, and waits.
    assert "versions" in home.client().call("GET", "/_matrix/client/versions")
    with pytest.raises((http.client.HTTPException, OSError)):
        poll.answer()
    wait_for_another(home, "router", before["pid"])
    assert home.unit("router")["restarts"] == before["restarts"] + 1


def test_where_sockets_cannot_be_copied_everything_is_taken_over_all_the_same(home: Deployment) -> None:
    # Mutation: the router not told to let go (src/run/start.rs): the port is taken, seen red.
    user = home.client().register("copies-user", "a password")
    room = user.create_room()
    before = killed(home)
    home.without = ["--without=copies"]
    try:
        home.start().wait_ready()
        after = home.pids()
        assert {unit for unit in before if before[unit] != after[unit]} == {"forkserver", "router"}
        user.insist("GET", "/_matrix/client/versions")
        user.send(room, "before")
        assert home.cli("restart", "--all", "--at-once").returncode == 0
        user.send(room, "after")
        assert user.messages(room) == ["before", "after"]
    finally:
        home.without = []
    killed(home)
    home.start().wait_ready()


def test_a_unit_that_was_stopped_stays_stopped(home: Deployment) -> None:
    # Mutation: `wanted` not kept: seen red.
    assert home.cli("stop", "generic-1").returncode == 0
    killed(home)
    home.start()
    wait_for("the supervisor", home.status)
    unit = home.unit("generic-1")
    assert (unit["state"], unit["pid"]) == ("down", None)
    assert home.cli("start", "generic-1").returncode == 0
    home.wait_ready()


def test_no_process_that_is_not_ours_is_touched(home: Deployment) -> None:
    assert home.cli("stop", "generic-1").returncode == 0
    other = subprocess.Popen(["sleep", "1000"])
    try:
        killed(home)
        file = home.run / "state.json"
        state = json.loads(file.read_text(encoding="utf-8"))
        found = stat(other.pid)
        assert found
        assert state["units"]["generic-1"]["process"] is None
        state["units"]["generic-1"]["process"] = {
            "pid": other.pid, "started": found.start, "ready": True, "ending": False, "made": "forked",
        }  # fmt: skip
        file.write_text(json.dumps(state), encoding="utf-8")
        done = subprocess.run(
            home.command("supervise"), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 75, done
        assert "cannot be told from others" in done.stderr
        assert f"ps -f {other.pid}" in done.stderr
        # One of that number that began at another time is nobody.
        state["units"]["generic-1"]["process"]["started"] += 1
        file.write_text(json.dumps(state), encoding="utf-8")
        home.start()
        wait_for("the supervisor", home.status)
        assert home.unit("generic-1")["pid"] is None
        assert home.cli("start", "generic-1").returncode == 0
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    home.wait_ready()


def test_a_file_that_was_edited_meanwhile_changes_nothing_by_itself(home: Deployment) -> None:
    # Mutation: the file on disk taken for what runs: seen red.
    workers, text = home.workers, home.toml.read_text(encoding="utf-8")
    before = killed(home)
    try:
        home.workers = workers.replace("generic = 1", "") + "\ngeneric = 2"
        home.write()
        home.start().wait_ready()
        assert "generic-2" not in home.pids()
        assert " 1. start\n" in home.cli("plan").stdout
        home.kill()
        home.toml.write_text(text.replace("[workers]", "[workers"), encoding="utf-8")
        home.start().wait_ready()
        after = home.pids()
        assert {unit for unit in before if before[unit] != after[unit]} == {"forkserver"}
    finally:
        home.workers = workers
        home.toml.write_text(text, encoding="utf-8")


def test_what_was_noted_may_be_lost_but_nothing_starts_beside_what_runs(home: Deployment) -> None:
    # Mutation: started without a look at the lock: it gets as far as the port, which is taken, seen red.
    before = killed(home)
    file = home.run / "state.json"
    state = file.read_bytes()
    try:
        for lost in (None, b"{", state.replace(b'"version":', b'"version":99')):
            if lost is None:
                file.unlink()
            else:
                file.write_bytes(lost)
            home.extra = 'stop_timeout = "1s"'
            home.write()
            done = subprocess.run(home.command("supervise"), capture_output=True, text=True, timeout=60)
            assert done.returncode == 75, done
            assert "still run, and what it noted of them is lost" in done.stderr
            assert f"{before['main']}" in done.stderr.rpartition("kill ")[2]
    finally:
        home.extra = ""
        home.write()
        file.write_bytes(state)
    home.start().wait_ready()
    assert {unit for unit in before if before[unit] != home.pids()[unit]} == {"forkserver"}


def test_a_second_supervisor_is_refused_and_the_first_never_notices(home: Deployment) -> None:
    before = home.pids()
    done = subprocess.run(home.command("supervise"), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 75, done
    assert home.process
    assert f"another synvisor (pid {home.process.pid}) runs on" in done.stderr
    assert home.pids() == before


def test_a_stop_ends_what_was_taken_over_too() -> None:
    # Mutation: signals for children only (src/run/processes.rs): the stop never ends, seen red.
    with deployed("generic = 1") as home:
        before = killed(home)
        home.start().wait_ready()
        home.stop()
        assert not [unit for unit, pid in before.items() if pid and command_line(pid)]
        assert not holders(home.state)
        assert sorted(path.name for path in home.run.iterdir() if not path.is_dir()) == []


def test_what_no_supervisor_comes_for_is_ended_by_order() -> None:
    # Mutation: `after-stop` that ends nothing: seen red.
    with deployed("generic = 1") as home:
        before = killed(home)
        environment = {**os.environ, "SERVICE_RESULT": "success"}
        done = subprocess.run(home.command("after-stop"), env=environment, timeout=60, check=False)
        assert done.returncode == 0
        assert not [unit for unit, pid in before.items() if pid and command_line(pid)]
        assert not holders(home.state)
        # After a crash somebody waits for what becomes of the service: here nobody starts it again.
        home.start().wait_ready()
        before = killed(home)
        environment["SERVICE_RESULT"] = "signal"
        done = subprocess.run(home.command("after-stop"), env=environment, timeout=60, check=False)
        assert done.returncode == 0
        assert command_line(before["main"] or 0)
        wait_for("the waiter ends them", lambda: (not holders(home.state)) or None)
        # And where somebody does, they are let be.
        home.start().wait_ready()
        killed(home)
        assert subprocess.run(home.command("after-stop"), env=environment, check=False).returncode == 0
        home.start().wait_ready()
        after = home.pids()
        wait_for("the waiter has gone", lambda: (b"after-stop" not in waiters()) or None)
        assert home.wait_ready().pids() == after


def waiters() -> bytes:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout
