"""Whatever dies, and whatever changes meanwhile: nothing that was accepted is lost, and all of it comes back.

`make soak MINUTES=n` is the long form; here each kind of fault comes at least once.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.census import Watch, differences, files, opened
from tests.support.chaos import Ordeal, endure, grown, judged, steps
from tests.support.deployment import Deployment, wait_for
from tests.support.faults import FAULTS, Failure
from tests.support.orphans import adopting, end_holders, holders, stat

pytestmark = [pytest.mark.timeout(1800), pytest.mark.busy]


def test_chaos_costs_only_what_it_may() -> None:
    # Mutations, each seen red: sendToDevice among what may be asked again (src/route/replay.tsv; with more of
    # these messages, and to-device-1 killed again and again: doubled); a descriptor and a file more for each
    # process that ended (src/run/children.rs); `without=("router",)`: a reload that costs requests.
    seed = int(os.environ.get("SEED") or random.randrange(2**32))
    broken = endure(seed)
    assert not broken, "\n".join([f"SEED={seed}", *broken])


# That it would notice ---------------------------------------------------------------------------------------

# A stand-in for a process of Synapse, as one is told from others: by the end of its command line.
SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)", "-c"]


@pytest.fixture
def idle() -> Iterator[Deployment]:
    """A deployment of which nothing runs."""
    home = Deployment()
    home.state.mkdir()
    home.run.mkdir()
    try:
        yield home
    finally:
        home.close()


def sleeper(home: Deployment, name: str) -> subprocess.Popen[bytes]:
    command = [*SLEEPER, str(home.state / "config" / f"{name}.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    return process


def test_a_second_process_of_a_name_is_noticed(idle: Deployment) -> None:
    started = [sleeper(idle, "generic-1"), sleeper(idle, "generic-2")]
    watch = Watch(idle)
    watch.start()

    def looked_again() -> None:
        looks = watch.looks
        wait_for("two more looks", lambda: True if watch.looks > looks + 1 else None)

    try:
        looked_again()
        # A dead one that nobody has waited for yet does nothing any more.
        started[0].kill()
        started.append(sleeper(idle, "generic-1"))
        looked_again()
        assert not watch.found
        started.append(sleeper(idle, "generic-2"))
        looked_again()
        (found,) = watch.found
        assert found.startswith("generic-2 runs twice")
    finally:
        watch.stop()
        for process in started:
            process.kill()
            process.communicate()


# Has a file and a listening socket more when it is told to.
LEAK = """
import socket, sys
print("up", flush=True)
sys.stdin.readline()
left = open(sys.argv[1], "w")
accepting = socket.socket()
accepting.listen()
print("done", flush=True)
sys.stdin.read()
"""


def test_what_is_left_over_is_noticed(idle: Deployment) -> None:
    listed = files(idle)
    (idle.state / "logs").mkdir()
    (idle.state / "logs" / "main.log").touch()
    assert files(idle) == listed
    command = [sys.executable, "-c", LEAK, str(idle.run / "left")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        before = opened(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        after = opened(process.pid)
        process.stdin.close()
    kinds = ("file", "listening socket")
    more = [f"{kind}: {before[kind]} before, {before[kind] + 1} after" for kind in kinds]
    assert differences(before, after) == more
    assert differences(before, after, frozenset(kinds)) == []
    assert differences(listed, files(idle)) == ["run/left: 0 before, 1 after"]
    assert grown([1_000] * 8 + [20_000]) != grown([1_000] * 9) == []


def request(phases: tuple[str, str], method: str, status: int | None, error: str | None) -> Failure:
    times = {"started": 1.0, "ended": 2.0}
    return {"operation": "x", "method": method, "phases": phases, "status": status, "error": error, **times}


def test_a_failure_is_excused_by_what_happened_meanwhile_and_by_nothing_else(tmp_path: Path) -> None:
    ordeal = Ordeal(phases={1: [], 2: [FAULTS["kill worker"]], 3: [], 4: [FAULTS["kill router"]], 5: []})
    gone, refused = "ServerDisconnectedError()", "ClientConnectorError(Connect call failed)"
    half = "ClientPayloadError()"
    excused = [
        # It began before, or ended after; a write is lost with its process, and half an answer.
        request(("1 calm", "2 kill worker"), "PUT", 502, "{}"),
        request(("2 kill worker", "3 calm"), "POST", None, gone),
        request(("2 kill worker", "2 kill worker"), "GET", None, half),
        request(("3 calm", "5 calm"), "GET", None, gone),
    ]
    inexcusable = [
        request(("2 kill worker", "2 kill worker"), "GET", 502, "{}"),
        request(("2 kill worker", "2 kill worker"), "PUT", 429, "{}"),
        request(("3 calm", "3 calm"), "PUT", 502, "{}"),
        request(("3 calm", "4 kill router"), "PUT", 502, "{}"),
        request(("4 kill router", "4 kill router"), "GET", None, refused),
        request(("begin", "1 calm"), "GET", 200, "it has other bytes than were uploaded"),
    ]
    record = tmp_path / "record"

    def judge(requests: list[Failure]) -> tuple[Counter[str], list[str]]:
        record.write_text("".join(json.dumps(one) + "\n" for one in requests))
        return judged(record, ordeal)

    counted, none = judge(excused)
    assert (sum(counted.values()), none) == (len(excused), [])
    none_counted, sentences = judge(inexcusable)
    assert (len(none_counted), len(sentences)) == (0, len(inexcusable))


def test_a_seed_repeats_its_faults_and_every_kind_comes() -> None:
    def sequence(seed: int, count: int) -> list[Any]:
        made = steps(random.Random(seed), list(FAULTS.values()), hasty=True)
        return [next(made) for _ in range(count)]

    assert sequence(7, 100) == sequence(7, 100) != sequence(8, 100)
    assert {fault.name for step in sequence(7, len(FAULTS)) for fault, _ in step.faults} == set(FAULTS)
    assert {len(step.faults) for step in sequence(7, 100)} == {1, 2}
    assert {step.patient for step in sequence(7, 100)} == {True, False}


def test_orphans_are_taken_over_and_whoever_holds_a_deployment_is_ended(idle: Deployment) -> None:
    # Mutation: no PR_SET_CHILD_SUBREAPER: seen red (the orphan has another parent).
    script = """
import os, time
if os.fork():
    os._exit(0)
os.setsid()
print(os.getpid(), flush=True)
time.sleep(600)
"""
    with adopting(), (idle.state / "lock").open("w") as lock:
        child = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, pass_fds=[lock.fileno()]
        )
        assert child.stdout
        orphan = int(child.stdout.readline())
        # Its own child is still for Popen to wait for.
        assert child.wait() == 0
        found = stat(orphan)
        assert found
        assert found.parent == os.getpid()
        assert [holder.pid for holder in holders(idle.state)] == [orphan]
        assert end_holders(idle.state / "lock") == [orphan]
        assert holders(idle.state) == []
        wait_for("the orphan reaped", lambda: True if stat(orphan) is None else None)
        child.communicate()
