"""Under a load of Matrix clients every kind of change is made to the configuration, and no request fails."""

from __future__ import annotations

import http.client
import json
import os
import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from tests.support.deployment import LIVELY, Deployment, deployed, wait_for
from tests.support.endpoints import appservice_registration
from tests.support.traffic import UNLIMITED, Traffic

pytestmark = [pytest.mark.timeout(1800), pytest.mark.busy]

WORKERS = {
    "generic": 2,
    "events": 1,
    "typing": 1,
    "federation_sender": 1,
    "pusher": 1,
    "media_repository": 1,
    "user_dir": 1,
}
SYNAPSE = UNLIMITED + LIVELY
PROVIDER = """
[[synapse.oidc_providers]]
idp_id = "own"
idp_name = "own"
discover = false
issuer = "https://auth.example.com/"
client_id = "matrix"
client_secret = "not a secret"
authorization_endpoint = "https://auth.example.com/authorize"
token_endpoint = "https://auth.example.com/token"
userinfo_endpoint = "https://auth.example.com/userinfo"
jwks_uri = "https://auth.example.com/keys"
"""


@dataclass(frozen=True)
class Edit:
    """One change of the TOML, and whom it concerns where that is told in advance."""

    name: str
    workers: dict[str, int] = field(default_factory=dict)
    # Above the first table, in [supervisor] and below it, above all of [synapse], below all of it.
    top: str = ""
    extra: str = ""
    synapse: str = ""
    below: str = ""
    # Exactly those that start, restart and stop; where it is None, what the plan says is enough.
    moved: set[str] | None = None


EDITS = [
    Edit("comment", top="# nothing but a comment", moved=set()),
    Edit("log level", extra='[units.typing-1]\nlog_level = "DEBUG"', moved=set()),
    Edit("cache factor", synapse="caches.global_factor = 1.5", moved=set()),
    Edit("trusted proxies", top='trusted_proxies = ["127.0.0.0/8", "10.0.0.0/8"]', moved=set()),
    Edit("time-outs", extra='stop_timeout = "25s"\nhealth_timeout = "20s"', moved=set()),
    Edit("one more reader", {"generic": 3}, moved={"generic-3"}),
    Edit("environment of one", extra="[units.generic-2.environment]\nA = 'b'", moved={"generic-2"}),
    Edit("caches of one", extra="[units.generic-1.caches]\nevent_cache_size = '20K'"),
    Edit("setting of main", synapse='report_stats_endpoint = "https://example.com/"'),
    Edit("setting of media", synapse='max_upload_size = "20M"'),
    Edit("setting of all", synapse="turn_allow_guests = false"),
    Edit("oidc provider", below=PROVIDER),
    Edit("one more sender", {"federation_sender": 2}),
    Edit("no sender", {"federation_sender": 0}),
    Edit("one more pusher", {"pusher": 2}),
    Edit("no media worker", {"media_repository": 0}),
    Edit("no user directory", {"user_dir": 0}),
    Edit("background worker", {"background": 1}),
    Edit("one more writer of events", {"events": 2}),
    Edit("typing written by main", {"typing": 0}),
    Edit("receipts and to-device of their own", {"receipts": 1, "to_device": 1}),
    Edit("a few changes at once", {"generic": 1, "pusher": 2}, extra='[units.all]\nlog_level = "WARNING"'),
]


def apply(home: Deployment, edit: Edit) -> None:
    counts = WORKERS | edit.workers
    home.workers = "\n".join(f"{kind} = {count}" for kind, count in counts.items())
    home.top, home.extra = edit.top, edit.extra
    home.synapse = f"{edit.synapse}\n{SYNAPSE}\n{edit.below}"
    home.write()


@pytest.fixture(scope="module")
def home() -> Iterator[Deployment]:
    workers = "\n".join(f"{kind} = {count}" for kind, count in WORKERS.items())
    with deployed(workers, synapse=SYNAPSE) as deployment:
        yield deployment


def moved(before: dict[str, int | None], after: dict[str, int | None]) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


def reload(home: Deployment) -> set[str]:
    """Reloads, and gives those whom it started, restarted or stopped; these are whom the plan named."""
    before, plan = home.pids(), home.cli("plan", "--json")
    assert plan.returncode in {0, 3}, plan
    steps = [step for step in json.loads(plan.stdout)["steps"] if step["kind"] != "hup"]
    planned = {name for step in steps for name in step["moves"]}
    done = home.cli("reload", timeout=300)
    assert done.returncode == 0, done
    after = home.pids()
    assert moved(before, after) == planned, done
    assert home.cli("plan").returncode == 0
    return planned


def test_no_change_costs_a_request(home: Deployment) -> None:
    # Mutations, each seen red: the router's table sent before everybody is down; files of a step not written.
    with Traffic(home.port) as traffic:
        traffic.breathe()
        # Each takes the one before it back.
        before = Edit("nothing", moved=set())
        for edit in [*EDITS, Edit("nothing")]:
            traffic.phase(edit.name)
            apply(home, edit)
            concerned = reload(home)
            if edit.moved is not None and before.moved is not None:
                assert concerned == edit.moved | before.moved, edit.name
            traffic.breathe()
            before = edit
        report = traffic.stop()
    assert report["failed"] == 0, json.dumps(report, indent=1)
    assert not report["lost"], json.dumps(report, indent=1)
    assert not report["doubled"], json.dumps(report, indent=1)


def states(home: Deployment) -> dict[str, str]:
    status = home.status()
    assert status
    return {unit["name"]: unit["state"] for unit in status["units"]}


def test_who_outlasts_the_drain_still_has_whom_it_calls(home: Deployment) -> None:
    # Mutation: everybody told to end at once: seen red, since a new room asks the writer of events.
    token = home.client().register(f"slow-{uuid.uuid4().hex[:8]}", "a password").token
    body = json.dumps({"name": "a room"}).encode()
    with socket.create_connection(("127.0.0.1", home.port), timeout=120) as connection:
        head = f"POST /_matrix/client/v3/createRoom HTTP/1.1\r\nHost: {home.server_name}\r\n"
        head += (
            f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        )
        connection.sendall(head.encode())
        # Who is asked for the body has been given to a process.
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body[:-1])
        apply(home, Edit("typing written by main", {"typing": 0}))
        with ThreadPoolExecutor() as pool:
            reloading = pool.submit(home.cli, "reload", timeout=300)

            def is_over() -> bool | None:
                now = states(home)
                asks = "stopping" in (now.get("generic-1"), now.get("generic-2"))
                return True if asks and now["events-1"] == "draining" else None

            wait_for("the drain is over for who asks, and not for who is asked", is_over)
            connection.sendall(body[-1:])
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.status == 200, response.read()
            done = reloading.result()
    assert done.returncode == 0, done
    apply(home, Edit("none"))
    reload(home)


def test_the_content_of_files_counts(home: Deployment) -> None:
    secret, bridge = home.directory / "turn", home.directory / "bridge.yaml"
    secret.write_text("one")
    secret.chmod(0o600)
    appservice_registration("http://127.0.0.1:9", bridge)
    virtualenv = home.directory / "venv"
    os.symlink(home.venv, virtualenv)
    with Traffic(home.port) as traffic:
        traffic.breathe()
        named = (
            f'turn_shared_secret = {{ secret_file = "{secret}" }}\napp_service_config_files = ["{bridge}"]'
        )
        apply(home, Edit("files", synapse=named))
        traffic.phase("files that are named")
        assert "main" in reload(home)
        traffic.breathe()
        traffic.phase("a secret is another one")
        secret.write_text("two")
        assert "main" in reload(home)
        traffic.breathe()
        traffic.phase("a registration is another one")
        bridge.write_text(bridge.read_text() + "\nrate_limited: false\n")
        assert "main" in reload(home)
        traffic.breathe()
        traffic.phase("another virtualenv")
        real, home.venv = home.venv, virtualenv
        apply(home, Edit("none"))
        assert "forkserver" in reload(home)
        traffic.breathe()
        home.venv = real
        apply(home, Edit("none"))
        reload(home)
        traffic.breathe()
        report = traffic.stop()
    assert report["failed"] == 0, json.dumps(report, indent=1)
