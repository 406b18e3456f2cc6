"""Addresses that come and go by a reload, while clients are served and nobody restarts.

tests/router/listeners.rs and src/run/listeners.rs break each part alone, and say what was seen red.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from tests.support.deployment import LIVELY, Deployment, deployed, free_port, wait_for
from tests.support.matrix import Client, quote
from tests.support.traffic import UNLIMITED, Traffic


@pytest.fixture(scope="module")
def server() -> Iterator[Deployment]:
    with deployed("generic = 1\ntyping = 1", synapse=UNLIMITED + LIVELY) as deployment:
        yield deployment


@pytest.fixture
def home(server: Deployment) -> Deployment:
    """At its one address, whatever the test before has left."""
    server.write()
    done = reload(server)
    assert done.returncode == 0, done
    return server


def listen(home: Deployment, *addresses: str, admin: tuple[str, ...] = (), extra: str = "") -> None:
    """Writes the TOML with these addresses, and `extra` behind them."""
    tables = "".join(
        f'[[listen]]\naddress = "{address}"\nadmin = {str(address in admin).lower()}\n'
        for address in addresses
    )
    home.write()
    text = home.toml.read_text()
    text, count = re.subn(
        r"(\[\[listen\]\]\n.*?)(?=\[supervisor\])", lambda _: tables + extra, text, flags=re.S
    )
    assert count == 1
    home.toml.write_text(text)


def reload(home: Deployment) -> subprocess.CompletedProcess[str]:
    return home.cli("reload", timeout=300)


def at(port: int) -> str:
    return f"127.0.0.1:{port}"


def is_refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def refused(port: int) -> None:
    """Waits until nobody listens there: the router is told, and says when it has closed the socket."""
    wait_for(f"nobody listens at {port}", lambda: is_refused(port) or None, 30)


def listening(home: Deployment) -> list[str]:
    status = home.status()
    assert status
    addresses: list[str] = status["listen"]
    return addresses


class Kept:
    """A connection that its client keeps."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.connection.connect()
        self.socket = self.connection.sock

    def ask(self, path: str = "/_matrix/client/versions", token: str | None = None) -> tuple[int, bool]:
        """The status of the answer, and whether it says that it is the last one."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.connection.request("GET", path, headers=headers)
        assert self.connection.sock is self.socket, "it is another connection"
        response = self.connection.getresponse()
        self.body = response.read()
        return response.status, response.getheader("Connection") == "close"


class Poll(threading.Thread):
    """A long-poll that waits for news."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        client.sync()
        assert client.since
        self.path = f"/_matrix/client/v3/sync?timeout=50000&since={quote(client.since)}"
        self.token, self.kept = client.token, Kept(client.port)
        self.answer: tuple[int, bool] | None = None
        self.start()

    def run(self) -> None:
        self.answer = self.kept.ask(self.path, self.token)


def test_an_address_comes_and_another_goes_and_nobody_notices(home: Deployment) -> None:
    old, new = home.port, free_port()
    before = home.pids()
    user = home.client().register("kept", "a password")
    room = user.create_room()
    kept, other = Kept(old), Kept(old)
    assert kept.ask() == (200, False)
    listen(home, at(old), at(new))
    done = reload(home)
    assert done.returncode == 0, done
    assert "the router was told" in done.stdout
    assert listening(home) == [at(old), at(new)]
    assert (kept.ask(), Kept(new).ask()) == ((200, False), (200, False))
    assert other.ask() == (200, False), "one that has not asked yet is served as well"

    with Traffic(new) as traffic:
        traffic.breathe()
        poll = Poll(user)
        traffic.phase("the first address goes")
        listen(home, at(new))
        done = reload(home)
        assert done.returncode == 0, done
        assert listening(home) == [at(new)]
        assert home.cli("plan").stdout == "no change\n"
        traffic.breathe()
        assert poll.answer is None, "it is not hurried"
        assert kept.ask() == (200, True)
        later = Client(new)
        later.token = user.token
        later.send(room, "news")
        poll.join(60)
        assert poll.answer == (200, True)
        assert b"news" in poll.kept.body
        refused(old)
        traffic.phase("and comes back")
        listen(home, at(old), at(new))
        assert reload(home).returncode == 0
        assert Kept(old).ask() == (200, False)
        # Again and again: each time the address is free as soon as it was said to be.
        for addresses in [(new,), (new, old)] * 5:
            listen(home, *map(at, addresses))
            done = reload(home)
            assert done.returncode == 0, done
        assert Kept(old).ask() == (200, False)
        report = traffic.stop()
    assert report["failed"] == 0, json.dumps(report, indent=1)
    assert not report["lost"], json.dumps(report, indent=1)
    assert home.pids() == before


def test_the_admin_api_is_opened_and_closed_by_address(home: Deployment) -> None:
    old, new = home.port, free_port()
    before, path = home.pids(), "/_synapse/admin/v1/server_version"
    kept = Kept(old)
    assert kept.ask(path) == (403, False)
    listen(home, at(new), at(old), admin=(at(new),))
    assert reload(home).returncode == 0
    assert (kept.ask(path), Kept(new).ask(path)) == ((403, False), (200, False))
    listen(home, at(old), admin=(at(old),))
    assert reload(home).returncode == 0
    assert kept.ask(path) == (200, False)
    listen(home, at(old))
    assert reload(home).returncode == 0
    assert kept.ask(path) == (403, False)
    assert home.pids() == before


def test_an_address_that_cannot_be_had_changes_nothing(home: Deployment) -> None:
    before, old, free = home.pids(), home.port, free_port()
    kept = Kept(old)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = at(taken.getsockname()[1])
        listen(home, at(free), address)
        done = reload(home)
    assert done.returncode == 1
    assert f"nothing was changed: cannot listen on {address}: the port is taken by another" in done.stderr
    assert "ss -ltnp" in done.stderr
    every = f"0.0.0.0:{old}"
    listen(home, every)
    done = reload(home)
    assert done.returncode == 1
    assert (
        f"nothing was changed: cannot listen on {every} while clients are served on {at(old)}" in done.stderr
    )
    assert is_refused(free)
    assert listening(home) == [at(old)]
    assert (kept.ask(), Kept(old).ask()) == ((200, False), (200, False))
    listen(home, at(old))
    assert home.cli("plan").stdout == "no change\n"
    assert home.pids() == before


def test_a_router_that_is_back_listens_where_the_last_one_did(home: Deployment) -> None:
    old, new = home.port, free_port()
    listen(home, at(old), at(new))
    assert reload(home).returncode == 0
    before = home.pids()
    done = home.cli("restart", "router")
    assert done.returncode == 0, done
    assert (Kept(old).ask(), Kept(new).ask()) == ((200, False), (200, False))
    after = home.pids()
    assert {name for name in before if before[name] != after[name]} == {"router"}


def test_a_change_that_is_rolled_back_leaves_the_addresses_as_they_were(home: Deployment) -> None:
    before, old, new = home.pids(), home.port, free_port()
    kept = Kept(old)
    assert kept.ask() == (200, False)
    (home.directory / "broken.py").write_text(
        "class Broken:\n    def __init__(self, config, api):\n        raise RuntimeError('on purpose')\n"
    )
    broken = f"""
[units.generic-1]
environment = {{ PYTHONPATH = "{home.directory}" }}
settings = {{ modules = [{{ module = "broken.Broken", config = {{}} }}] }}
"""
    listen(home, at(new), extra=broken)
    done = reload(home)
    assert done.returncode == 1
    assert "was rolled back" in done.stderr, done
    assert listening(home) == [at(old)]
    assert kept.ask() == (200, False), "its address never went"
    assert Kept(old).ask() == (200, False)
    refused(new)
    listen(home, at(old))
    assert home.cli("plan").stdout == "no change\n"
    after = home.pids()
    assert {name for name in before if before[name] != after[name]} == {"generic-1"}
