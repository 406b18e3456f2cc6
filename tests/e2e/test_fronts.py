"""Behind Caddy and nginx: the admin API stays closed, and Synapse sees who asks, whatever the headers say."""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.deployment import Deployment, deployed, free_port, wait_for
from tests.support.fronts import caddy, nginx
from tests.support.matrix import Client, quote

# Every address of 127.0.0.0/8 is this machine: the web servers come from the first and are believed, a client
# from another one, and a web server that is not believed from a third.
BELIEVED, CLIENT, STRANGER = "127.0.0.1", "127.0.0.77", "127.0.0.2"

NGINX = {
    # What most manuals have.
    "nginx that adds": "proxy_pass TARGET; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
    # With a path behind the address nginx decodes and normalises what it passes on.
    "nginx that normalises": "proxy_pass TARGET/; proxy_set_header X-Forwarded-For $remote_addr;",
    # Without X-Forwarded-For of its own it passes on whatever the client wrote, and must not be believed.
    "nginx without": f"proxy_pass TARGET; proxy_bind {STRANGER};",
}

FORGED: list[dict[str, str]] = [
    {},
    {"X-Forwarded-For": "6.6.6.6"},
    {"X-Forwarded-For": BELIEVED},
    {"X-Forwarded-For": f"6.6.6.6, {BELIEVED}"},
    {"x-forwarded-for": f"6.6.6.6,{CLIENT},,", "X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6"},
    {"X-Forwarded-For": "::1", "X-Forwarded-Host": "6.6.6.6", "X-Forwarded-Proto": "https"},
]


@dataclass
class World:
    home: Deployment
    admin_port: int
    admin: Client
    # By the name of what stands in front: where it listens, and whom Synapse shall see.
    fronts: dict[str, tuple[int, str]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    admin_port = free_port()
    listen = f'[[listen]]\naddress = "127.0.0.1:{admin_port}"\nadmin = true\n'
    top = f'trusted_proxies = ["{BELIEVED}"]'
    closing = []
    with deployed("generic = 1", top=top, extra=listen) as home:
        try:
            front, port = caddy(home.port)
            closing.append(front)
            fronts = {"nobody": (home.port, CLIENT), "caddy": (port, CLIENT)}
            front, ports = nginx(home.port, NGINX)
            closing.append(front)
            for name, port in ports.items():
                fronts[name] = (port, STRANGER if "without" in name else CLIENT)
            yield World(home, admin_port, home.administrator(admin_port), fronts)
        finally:
            for front in closing:
                front.close()


def ask(
    port: int, method: str, path: str, headers: dict[str, str], body: bytes | None = None
) -> tuple[int, bytes]:
    """A request as the client sends it, the target byte for byte."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60, source_address=(CLIENT, 0))
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_synapse_sees_the_address_of_the_client_whatever_the_headers_say(world: World) -> None:
    # Mutation: the leftmost address taken in Client::of (src/router/headers.rs): seen red.
    name = f"u{uuid.uuid4().hex[:8]}"
    user = world.home.client().register(name, "a password")
    expected = {}
    for front, (port, address) in world.fronts.items():
        for number, forged in enumerate(FORGED):
            # A device for each: Synapse remembers where each of them was last seen.
            device = f"{front} {number}"
            credentials = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": name}}
            text = json.dumps({**credentials, "password": "a password", "device_id": device}).encode()
            status, answer = ask(port, "POST", "/_matrix/client/v3/login", forged, text)
            assert status == 200, (device, answer)
            token = {"Authorization": f"Bearer {json.loads(answer)['access_token']}"}
            status, answer = ask(port, "GET", "/_matrix/client/v3/account/whoami", {**token, **forged})
            assert (status, json.loads(answer)["user_id"]) == (200, user.user), (device, answer)
            expected[device] = address
    path = f"/_synapse/admin/v2/users/{quote(user.user)}/devices"

    def seen() -> dict[str, str] | None:
        devices = world.admin.call("GET", path)["devices"]
        found = {device["device_id"]: device["last_seen_ip"] for device in devices}
        found.pop(user.device)
        # Synapse writes down what it saw every few seconds.
        return found if all(found.values()) else None

    assert wait_for("every device was seen", seen) == expected


CLOSED = [
    "/_synapse/admin/v1/server_version",
    "//_synapse/admin/v1/server_version",
    "/_synapse//admin/v1/server_version",
    "/_synapse/./admin/v1/server_version",
    "/_matrix/../_synapse/admin/v1/server_version",
    "/_matrix/client/../../_synapse/admin/v1/server_version",
    "/_synapse/%61dmin/v1/server_version",
    "/%5Fsynapse/admin/v1/server_version",
    "/_synapse%2Fadmin/v1/server_version",
    "/_synapse/admin%2Fv1/server_version",
    "/_SYNAPSE/admin/v1/server_version",
    "/_synapse/admin/v1/server_version?x=/_matrix/client/versions",
    "/_synapse/metrics",
    "/_synapse/%6detrics",
    "/_synapse/replication/fed_query/profile",
    "/_matrix/../_synapse/replication/fed_query/profile",
]


def test_no_front_opens_what_is_closed(world: World) -> None:
    # Mutation: `!head.admin` left out of RouteTable::decide: seen red.
    versions = "/_matrix/client/versions"
    server_version = "/_synapse/admin/v1/server_version"
    assert world.admin.call("GET", server_version)["server_version"]
    wrong = []
    for front, (port, _) in world.fronts.items():
        assert ask(port, "GET", versions, {})[0] == 200
        for forged in [
            *FORGED,
            {"X-Original-URL": server_version, "X-Rewrite-URL": server_version},
            {"Host": f"127.0.0.1:{world.admin_port}", "X-Forwarded-Host": "127.0.0.1"},
            {"X-HTTP-Method-Override": "GET", "Connection": "X-Forwarded-For"},
        ]:
            headers = {"Authorization": f"Bearer {world.admin.token}", **forged}
            for path in CLOSED:
                for method in ("GET", "POST"):
                    status, body = ask(port, method, path, headers, b"{}" if method == "POST" else None)
                    if status not in (400, 403, 404, 405):
                        wrong.append(f"{front}: {method} {path} with {forged}: {status} {body[:200]!r}")
            # And what is open is not turned into what is closed.
            if ask(port, "GET", versions, headers)[0] != 200:
                wrong.append(f"{front}: {versions} with {forged}")
    assert not wrong, "\n".join(wrong)
