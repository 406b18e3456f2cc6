"""A supervisor that is killed in the middle of a change: the next one takes over, and finishes it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.support.deployment import LIVELY, Deployment, wait_for

pytestmark = pytest.mark.timeout(1800)

BEFORE = "generic = 2\nfederation_sender = 1\ntyping = 1"
AFTER = "generic = 3\nfederation_sender = 2\ntyping = 1\npusher = 1"
# With the workers above: files read anew, units that go together, that start, that restart one by one.
EDIT = "[units.typing-1]\nlog_level = 'DEBUG'\n[units.generic-1.environment]\nA = 'b'"
# Moments of this change at which the supervisor may die: its record is there; after each of the four steps,
# and for all but SIGHUP also when everybody is down; before and after the record says that it is done.
MOMENTS = 10


def generations(home: Deployment) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(home.cli("generations", "--json").stdout)
    return listed


def files(home: Deployment) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (home.state / "config").iterdir()}


def start(home: Deployment, *options: str) -> None:
    with home.output.open("ab") as output:
        command = home.command("supervise", *options)
        home.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    home.wait_ready()


def test_every_moment_of_a_change_may_be_the_last() -> None:
    # Mutation: what was under way not taken up (src/run/adopt.rs): seen red.
    home = Deployment(BEFORE, synapse=LIVELY)
    try:
        start(home)
        user = home.client().register("user", "a password")
        room = user.call("POST", "/_matrix/client/v3/createRoom", {})["room_id"]
        sent: list[str] = []
        found: list[dict[str, bytes]] = []
        moment = 0
        while True:
            moment += 1
            # The homeserver itself goes on.
            home.kill()
            start(home, f"--milestones={moment}")
            before = generations(home)[-1]["number"]
            send = f"/_matrix/client/v3/rooms/{room}/send/m.room.message/{moment}"
            sent.append(user.call("PUT", send, {"msgtype": "m.text", "body": f"{moment}"})["event_id"])
            home.workers, home.extra = AFTER, EDIT
            home.write()
            steps = json.loads(home.cli("plan", "--json").stdout)["steps"]
            assert [step["kind"] for step in steps] == ["hup", "together", "start", "restart"]
            pids = home.pids()
            done = home.cli("reload", timeout=300)
            assert home.process
            if done.returncode == 0:
                # There was no such moment.
                assert home.process.poll() is None
                assert all(held == files(home) for held in found)
                break
            assert home.process.wait(timeout=60) == -9, done
            start(home)
            # What the file says runs, whole; its record says so; and nothing that was said is lost.
            wait_for("the rest of the change", lambda: (generations(home)[-1]["result"] == "applied") or None)
            home.wait_ready()
            assert home.cli("plan").stdout == "no change\n", moment
            found.append(files(home))
            done_by = {one["number"]: one["result"] for one in generations(home) if one["number"] > before}
            # By the record that was begun, or by one more that finished it.
            assert done_by in ({before + 1: "applied"}, {before + 1: "failed", before + 2: "applied"}), moment
            # Whom the change does not concern never noticed, and neither did who only read something anew.
            untouched = ("postgres", "redis", "router", "typing-1", "generic-2")
            assert {unit: pids[unit] for unit in untouched} == {u: home.pids()[u] for u in untouched}, moment
            for event in sent:
                user.call("GET", f"/_matrix/client/v3/rooms/{room}/event/{event}")
            home.workers, home.extra = BEFORE, ""
            home.write()
            assert home.cli("reload", timeout=300).returncode == 0
        assert moment == MOMENTS + 1
    finally:
        home.close()


def test_a_rollback_that_is_interrupted_ends_somewhere() -> None:
    """Its file on disk is the one that it leaves: the next start must not take back what was ordered."""
    home = Deployment("generic = 1", synapse=LIVELY)
    try:
        start(home)
        for count in (2, 3):
            home.workers = f"generic = {count}"
            home.write()
            assert home.cli("reload").returncode == 0
        home.stop()
        start(home, "--milestones=2")
        assert home.cli("rollback", "1").returncode != 0
        assert home.process
        assert home.process.wait(timeout=60) == -9
        start(home)
        wait_for("the rest of the rollback", lambda: True if "generic-2" not in home.pids() else None)
        wait_for("its record", lambda: (generations(home)[-1]["result"] == "applied") or None)
        results = [one["result"] for one in generations(home)]
        assert results[:3] == ["applied", "applied", "rolled_back"]
        assert results[3:] in (["applied"], ["failed", "applied"])
        assert home.pids()["generic-1"]
    finally:
        home.close()
