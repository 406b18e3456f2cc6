"""The router is replaced while clients use it: whoever it has is answered, long-polls included."""

from __future__ import annotations

import http.client
import json
import re
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import LIVELY, Deployment, children, command_line, deployed, wait_for
from tests.support.matrix import Client, quote
from tests.support.traffic import UNLIMITED, Traffic

pytestmark = [pytest.mark.timeout(900), pytest.mark.busy]

# Longer than a worker takes to restart on a slow machine.
POLL = 60
RESTARTS = 20


@pytest.fixture
def home() -> Iterator[Deployment]:
    with deployed("generic = 1", synapse=UNLIMITED + LIVELY) as deployment:
        yield deployment


def routers(home: Deployment) -> set[int]:
    assert home.process
    return {pid for pid in children(home.process.pid) if command_line(pid).startswith("synvisor router")}


def is_router(pid: int) -> bool:
    return command_line(pid).startswith("synvisor router")


def restart(home: Deployment, unit: str) -> dict[str, Any]:
    done = home.cli("restart", "--json", unit)
    assert done.returncode == 0, done
    answer = json.loads(done.stdout)
    assert answer["ok"], answer
    (summary,) = answer["units"]
    return dict(summary)


class Poll:
    """A /sync that waits for news on a connection that is kept open."""

    def __init__(self, home: Deployment, user: Client) -> None:
        user.sync()
        self.connection = http.client.HTTPConnection("127.0.0.1", home.port, timeout=POLL + 60)
        # Kept alive: the connection has had an answer before.
        self.connection.request("GET", "/_matrix/client/versions")
        self.connection.getresponse().read()
        assert user.since
        # Presence changes by itself, and would answer it too early.
        nobody = quote('{"presence":{"not_types":["*"]}}')
        path = f"/_matrix/client/v3/sync?timeout={POLL * 1000}&since={quote(user.since)}&filter={nobody}"
        before = requests_of(home)
        self.connection.request("GET", path, headers={"Authorization": f"Bearer {user.token}"})
        wait_for("the poll to arrive", lambda: requests_of(home) > before or None)

    def answer(self) -> tuple[http.client.HTTPResponse, str]:
        response = self.connection.getresponse()
        text = response.read().decode()
        self.connection.close()
        return response, text


def requests_of(home: Deployment) -> float:
    """How many /sync requests the worker has taken."""
    text = home.metrics("generic-1")
    found = re.findall(r"^synapse_http_server_requests_received_total\{.*Sync.*\} (\S+)$", text, re.MULTILINE)
    return sum(float(value) for value in found)


def user(home: Deployment) -> Client:
    return home.client().register(f"user-{uuid.uuid4().hex[:8]}", "a password")


def polling(home: Deployment) -> tuple[Client, str, Poll]:
    """Who can send to a room, the room, and somebody who waits for news of it."""
    alice, bob = user(home), user(home)
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    return alice, room, Poll(home, bob)


def test_a_long_poll_outlives_its_router(home: Deployment) -> None:
    alice, room, poll = polling(home)
    (old,) = routers(home)
    summary = restart(home, "router")
    assert summary["unit"] == "router"
    assert summary["start_ms"] is not None
    assert summary["retired"] == 1
    new = home.unit("router")["pid"]
    assert new != old
    assert routers(home) == {old, new}
    status = home.status()
    assert status
    (note,) = [note for note in status["notes"] if f"pid {old} " in note]
    assert "is kept for the clients that it has" in note
    assert [unit["name"] for unit in status["units"]].count("router") == 1
    # Whoever comes now is answered by the new one, and what it brings wakes who waits at the old one.
    alice.send(room, "after the restart")
    response, text = poll.answer()
    assert response.status == 200
    assert "after the restart" in text
    assert response.getheader("Connection") == "close"
    wait_for("the old router to end with its last request", lambda: None if is_router(old) else True)
    assert routers(home) == {new}
    assert sorted(path.name for path in home.run.glob("router-*.sock")) == ["router-2.sock"]
    status = home.status()
    assert status
    assert not [note for note in status["notes"] if "finish" in note]


def test_a_worker_restarts_behind_a_router_that_was_replaced(home: Deployment) -> None:
    alice, room, poll = polling(home)
    (old,) = routers(home)
    restart(home, "router")
    summary = restart(home, "generic-1")
    assert summary["taken_back"] == 1, summary
    assert summary["cut"] == 0, summary
    assert is_router(old)
    alice.send(room, "after both restarts")
    response, text = poll.answer()
    assert response.status == 200
    assert "after both restarts" in text
    wait_for("the old router to end with its last request", lambda: None if is_router(old) else True)


def test_the_router_restarts_often_and_fails_no_request(home: Deployment) -> None:
    (first,) = routers(home)
    with Traffic(home.port) as traffic:
        traffic.breathe()
        for number in range(RESTARTS):
            traffic.phase(f"restart {number}")
            restart(home, "router")
        traffic.breathe()
        report = traffic.stop()
    assert report["failed"] == 0, json.dumps(report, indent=1)
    assert not report["lost"] and not report["doubled"], json.dumps(report, indent=1)
    assert home.unit("router")["incarnation"] == RESTARTS + 1
    wait_for("one router to be left", lambda: len(routers(home)) == 1 or None)
    assert not is_router(first)
    assert home.unit("router")["restarts"] == 0, "none of them ended unasked"


def test_a_stop_takes_the_routers_that_were_replaced_along(home: Deployment) -> None:
    bob = user(home)
    polls = [Poll(home, bob)]
    restart(home, "router")
    polls.append(Poll(home, bob))
    restart(home, "router")
    everybody = routers(home)
    assert len(everybody) == 3
    assert home.process
    home.process.send_signal(signal.SIGTERM)
    # What it checks: nobody is left, no socket either, and the exit code is 0.
    home.stop()
    assert not [pid for pid in everybody if Path(f"/proc/{pid}/exe").exists()]
