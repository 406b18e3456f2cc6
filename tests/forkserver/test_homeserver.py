"""The fork server with Synapse itself: main on SQLite, a worker on PostgreSQL and Redis."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import deployed

from .homeserver import MAIN, Connection, Homeserver
from .supervisor import Child, Supervisor, listening, wait_for
from .usage import use

SYNC = "/_matrix/client/v3/sync"
# Modules that a process may load after the fork, each with its reason; there are none that we know of.
ALLOWED: dict[str, str] = {}


@pytest.fixture(scope="module")
def home(shared: Supervisor) -> Iterator[Homeserver]:
    home = Homeserver(shared)
    try:
        yield home
    finally:
        home.close()


@pytest.fixture
def main(home: Homeserver) -> Iterator[Child]:
    child = home.wait_ready(home.start("loaded_app", environment={"SYNAPSE_APP": MAIN}))
    try:
        yield child
    finally:
        child.end()


def loaded_late(child: Child) -> set[str]:
    """What a process has loaded by now that the fork server had not."""
    seen = child.text().count("loaded late:")
    child.kill(10)
    text = wait_for(
        "an answer to SIGUSR1",
        lambda: text if (text := child.text()).count("loaded late:") > seen else None,
    )
    return set(re.findall(r"loaded late: (.*)\.\n", text)[-1].split())


# Mutation: load_bytecode() that finds nothing, and install() of the schemas left out: seen red.
def test_a_process_does_not_compile_or_check_again_what_the_server_has(home: Homeserver) -> None:
    child = home.start("counting_app", environment={"SYNAPSE_APP": MAIN})
    home.wait_ready(child)
    assert "compiled 0 templates, checked 0 schemas" in child.text()
    assert "each process will" not in home.supervisor.server_log()
    child.end()


# Mutation: LATE emptied: seen red, here and with the worker.
def test_main_loads_nothing_after_the_fork(home: Homeserver, main: Child) -> None:
    use(home.connect(), "loader")
    assert loaded_late(main) - set(ALLOWED) == set()


def test_a_worker_loads_nothing_after_the_fork(shared: Supervisor) -> None:
    with deployed("generic = 1", server_name="localhost") as deployment:
        assert deployment.cli("stop", "generic-1").returncode == 0
        config = next(deployment.state.rglob("generic-1.yaml"))
        child = shared.fork(
            "loaded_app", "-c", str(config), environment={"SYNAPSE_APP": "synapse.app.generic_worker"}
        ).go()
        path = deployment.run / "client" / "generic-1.sock"
        wait_for("the worker to listen", lambda: path.is_socket() or None)
        try:
            use(Connection(path), "loader", main=False)
            assert loaded_late(child) - set(ALLOWED) == set()
            child.kill()
            assert child.wait() == 0
        finally:
            child.end()


# Mutation: graceful_stop.install() left out: seen red (the long-poll is cut).
def test_a_restart_under_way_loses_nobody(home: Homeserver) -> None:
    """A long-poll in flight is answered, and who comes meanwhile is answered by the next process."""
    old = home.wait_ready(home.start())
    token = home.token()
    idle = home.connect()
    since = json.loads(idle.ask("GET", f"{SYNC}?timeout=0", None, token).read())["next_batch"]
    polling = home.connect()
    polling.send_request("GET", f"{SYNC}?timeout=2000&since={since}", None, token)
    # Another sync of the same user is answered after the one before it has been read.
    idle.ask("GET", "/_matrix/client/versions").read()
    idle.ask("GET", f"{SYNC}?timeout=0", None, token).read()
    old.kill()
    assert idle.sock.recv(1) == b""
    newcomer = home.connect()
    newcomer.send_request("GET", "/_matrix/client/v3/account/whoami", None, token)
    response = polling.getresponse()
    assert (response.status, response.getheader("Connection")) == (200, "close")
    assert "next_batch" in json.loads(response.read())
    assert old.wait() == 0
    new = home.start()
    assert json.loads(newcomer.getresponse().read())["user_id"] == "@alice:localhost"
    home.wait_ready(new)
    new.kill()
    assert new.wait() == 0
    assert "Shutting down" in new.text(), "Synapse's own steps of a stop have run"


# Mutation: the wrapper of the poller not put back by renew(): seen red.
def test_the_reactor_of_a_fork_is_measured(home: Homeserver, main: Child) -> None:
    def ticks() -> float:
        text = home.connect().ask("GET", "/_synapse/metrics").read().decode()
        found = re.search(r"^python_twisted_reactor_tick_time_count (\S+)$", text, re.MULTILINE)
        assert found
        return float(found[1])

    before = ticks()
    assert ticks() > before > 0


def test_a_wrong_configuration_ends_as_it_does_with_synapse(home: Homeserver) -> None:
    child = home.supervisor.fork(MAIN, "-c", str(home.config) + ".missing").go()
    assert child.wait() == 1
    assert "No such file" in child.text()
    child = home.supervisor.fork(MAIN).go()
    assert child.wait() == 2
    assert "Must supply a config file" in child.text()


def called(supervisor: Supervisor, without: list[str]) -> bytes:
    """The request that a replication call is."""
    path = supervisor.directory / "replication.sock"
    with listening(path) as listener:
        child = supervisor.fork("replication_app", str(path), without=without).go()
        listener.settimeout(60)
        connection, _ = listener.accept()
        with connection:
            request = read_head(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            assert child.wait() == 0, child.text()
    assert "b'ok'" in child.text()
    return request


def read_head(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(4096)
    return data


# Mutation: make_plain() left out: seen red.
def test_replication_calls_keep_no_connection(shared: Supervisor) -> None:
    assert b"Connection: close\r\n" in called(shared, [])
    assert b"Connection: close\r\n" not in called(shared, ["pool"]), "what the switch is for"


def test_a_listener_of_main_has_its_mode_from_the_supervisor(home: Homeserver, main: Child) -> None:
    assert Path(home.path).stat().st_mode & 0o777 == 0o660
