"""Behind what `synvisor front` prints, in the web servers that it is for, over TLS as the world comes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.support.deployment import BINARY, Deployment, free_port, wait_for
from tests.support.endpoints import stop_listening
from tests.support.generated import CLIENT, COMMANDS, FORMS, Fronts
from tests.support.matrix import Client, quote

HOST, PUBLIC = "example.test", "matrix.example.test"
FORGED: list[dict[str, str]] = [
    {},
    {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "http"},
    {"X-Forwarded-For": "127.0.0.1"},
    {"x-forwarded-for": f"6.6.6.6,{CLIENT},,", "X-Real-IP": "6.6.6.6", "Forwarded": "for=6.6.6.6"},
]


@dataclass
class World:
    home: Deployment
    # The host of public_baseurl.
    public: str
    fronts: Fronts
    admin: Client


@pytest.fixture(scope="module", params=[HOST, PUBLIC], ids=["same-host", "split-host"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    admin_port = free_port()
    listen = f'[[listen]]\naddress = "127.0.0.1:{admin_port}"\nadmin = true\n'
    home = Deployment("generic = 1", server_name=HOST, extra=listen)
    fronts = Fronts([HOST, PUBLIC])
    try:
        home.synapse = f"presence.enabled = false\n{home.synapse}"
        home.write()
        text = home.toml.read_text(encoding="utf-8")
        text = re.sub("public_baseurl = .*", f'public_baseurl = "https://{request.param}/"', text)
        home.toml.write_text(text, encoding="utf-8")
        fronts.start(home.toml, list(FORMS))
        home.start().wait_ready()
        yield World(home, request.param, fronts, home.administrator(admin_port))
    finally:
        fronts.close()
        home.close()


def as_json(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        return body


each_server = pytest.mark.parametrize("server", COMMANDS)
each_form = pytest.mark.parametrize("form", FORMS)


@each_form
@each_server
def test_whoever_looks_for_the_homeserver_is_told_where_it_is(world: World, server: str, form: str) -> None:
    # Mutations, each seen red: HAProxy's and Apache's own answer left out; Caddy's 404 to the rest left out.
    ports, split = world.fronts.ports[server, form], world.public != HOST
    status, headers, body = world.fronts.ask(ports, HOST, "GET", "/.well-known/matrix/client")
    # Clients in browsers are of another origin.
    told = (status, headers["Access-Control-Allow-Origin"], as_json(body))
    assert told == (200, "*", {"m.homeserver": {"base_url": f"https://{world.public}/"}})

    status, headers, body = world.fronts.ask(ports, HOST, "GET", "/.well-known/matrix/server")
    if form == "delegated" or not split:
        told = (status, headers["Content-Type"], as_json(body))
        assert told == (200, "application/json", {"m.server": f"{world.public}:443"})
        # What Synapse says to servers is not for browsers.
        assert not split or headers["Access-Control-Allow-Origin"] == "*"
    else:
        assert status != 200, body
    status, _, body = world.fronts.ask(ports, HOST, "GET", "/_matrix/client/versions")
    # The rest of that site is somebody else's.
    assert (status == 200) == (not split), body


@each_form
@each_server
def test_clients_and_servers_do_what_they_came_for(world: World, server: str, form: str) -> None:
    # Mutation: nginx without client_max_body_size: seen red by the upload.
    headers: dict[str, str] = {}

    def call(
        method: str, path: str, body: bytes | None = None, host: str = world.public, port: int = 443
    ) -> bytes:
        ports = world.fronts.ports[server, form]
        status, _, answer = world.fronts.ask(ports, host, method, path, headers, body, port)
        assert status == 200, (method, path, answer[:500])
        return answer

    assert "v1.11" in json.loads(call("GET", "/_matrix/client/versions"))["versions"]
    # What comes to 8448 comes for server_name.
    host, port = (world.public, 443) if form == "delegated" else (HOST, 8448)
    found = json.loads(call("GET", "/_matrix/federation/v1/version", host=host, port=port))
    assert found["server"]["name"] == "Synapse"
    assert json.loads(call("GET", "/_matrix/key/v2/server", host=host, port=port))["server_name"] == HOST
    name = f"u{uuid.uuid4().hex[:8]}"
    world.home.client().register(name, "a password")
    identifier = {"type": "m.id.user", "user": name}
    login = {"type": "m.login.password", "identifier": identifier, "password": "a password"}
    token = json.loads(call("POST", "/_matrix/client/v3/login", json.dumps(login).encode()))["access_token"]
    headers["Authorization"] = f"Bearer {token}"
    # More than nginx takes by itself.
    file = os.urandom(3 << 20)
    uri = json.loads(call("POST", "/_matrix/media/v3/upload", file))["content_uri"]
    assert call("GET", f"/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}") == file
    # A name with a slash in it, which is none of the path.
    room = json.loads(call("POST", "/_matrix/client/v3/createRoom", b"{}"))["room_id"]
    path = f"/_matrix/client/v3/rooms/{quote(room)}/state/org.example/a%2Fb"
    call("PUT", path, b'{"x":1}')
    assert json.loads(call("GET", path)) == {"x": 1}


# Longer than nginx and Apache wait by themselves, in seconds.
LONG = 65


def test_a_long_poll_lasts_as_long_as_its_client_wants(world: World) -> None:
    # Mutations, each seen red: nginx without proxy_read_timeout; Apache without timeout.
    user = world.home.client().register(f"u{uuid.uuid4().hex[:8]}", "a password")
    user.sync()
    assert user.since
    path = f"/_matrix/client/v3/sync?timeout={LONG * 1000}&since={quote(user.since)}"

    def poll(ports: dict[int, int]) -> tuple[int, bool]:
        begun = time.monotonic()
        headers = {"Authorization": f"Bearer {user.token}"}
        status = world.fronts.ask(ports, world.public, "GET", path, headers)[0]
        return status, time.monotonic() - begun >= LONG - 1

    fronts = world.fronts.ports
    with ThreadPoolExecutor(len(fronts)) as pool:
        found = dict(zip(fronts, pool.map(poll, fronts.values()), strict=True))
    assert found == dict.fromkeys(fronts, (200, True))


def test_synapse_sees_the_address_of_the_client_whatever_the_headers_say(world: World) -> None:
    name = f"u{uuid.uuid4().hex[:8]}"
    user = world.home.client().register(name, "a password")
    identifier = {"type": "m.id.user", "user": name}
    devices = {}
    for (server, form), ports in world.fronts.ports.items():
        for number, forged in enumerate(FORGED):
            device = f"{server} {form} {number}"
            login = {"type": "m.login.password", "identifier": identifier, "password": "a password"}
            body = json.dumps({**login, "device_id": device}).encode()
            path = "/_matrix/client/v3/login"
            status, _, answer = world.fronts.ask(ports, world.public, "POST", path, forged, body)
            assert status == 200, (device, answer)
            headers = {**forged, "Authorization": f"Bearer {json.loads(answer)['access_token']}"}
            path = "/_matrix/client/v3/account/whoami"
            assert world.fronts.ask(ports, world.public, "GET", path, headers)[0] == 200
            devices[device] = CLIENT

    def seen() -> dict[str, str] | None:
        path = f"/_synapse/admin/v2/users/{quote(user.user)}/devices"
        found = {held["device_id"]: held["last_seen_ip"] for held in world.admin.call("GET", path)["devices"]}
        found.pop(user.device)
        return found if all(found.values()) else None

    assert wait_for("every device was seen", seen) == devices


@dataclass
class Arrival:
    target: str
    # Every header, in order.
    headers: list[tuple[str, str]]
    connection: int

    def all(self, name: str) -> list[str]:
        return [value for held, value in self.headers if held.lower() == name.lower()]


class Stand:
    """Stands where the router would, and keeps what comes to the letter. `/gone` gets no answer."""

    def __init__(self) -> None:
        self.port = free_port()
        self.arrivals: list[Arrival] = []
        self.connections: list[socket.socket] = []
        self.listen()

    def listen(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            number = len(self.connections)
            threading.Thread(target=self.serve, args=(connection, number), daemon=True).start()

    def leave(self) -> None:
        """Has whoever comes refused, as by a router that is not there."""
        stop_listening(self.listener)
        for held in self.connections:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    def serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                _, target, version = line.decode("latin-1").split()
                assert version == "HTTP/1.1"
                headers = []
                while (header := stream.readline().decode("latin-1").strip()) != "":
                    held, _, value = header.partition(":")
                    headers.append((held, value.strip()))
                arrival = Arrival(target, headers, number)
                self.arrivals.append(arrival)
                stream.read(int((arrival.all("Content-Length") or ["0"])[0]))
                if target == "/gone":
                    return
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def close(self) -> None:
        self.listener.close()


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stand, Fronts]]:
    stand, fronts = Stand(), Fronts([HOST, PUBLIC])
    toml = tmp_path_factory.mktemp("front") / "synvisor.toml"
    toml.write_text(
        f'server_name = "{HOST}"\npublic_baseurl = "https://{PUBLIC}/"\n'
        f'[[listen]]\naddress = "127.0.0.1:{stand.port}"\n',
        encoding="utf-8",
    )
    try:
        yield stand, fronts.start(toml, ["port 8448"])
    finally:
        fronts.close()
        stand.close()


TARGETS = [
    "/_matrix/client/v3/rooms/%21a%3Aexample.test/state/m.x/a%2Fb%2fc",
    "/_matrix//client///versions/",
    "/_matrix/client/./v3/../versions",
    "/_matrix/%63lient/%7Ex/%2e%2E/%E2%98%83/a%20b",
    "/_matrix/client/a%3Fb%23c%25d%5Ce;f=g;h",
    "/_matrix/client/$x!'()*+,:@&=-._~",
    "/_matrix/federation/v1/x?a=%2F%2f&b=c+d&&e=%7E&f=//../",
]


@each_server
def test_what_is_asked_goes_on_to_the_letter(stand: tuple[Stand, Fronts], server: str) -> None:
    # Mutations, each seen red: nginx's proxy_pass with a slash at its end; Apache's without nocanon.
    router, fronts = stand
    ports = fronts.ports[server, "port 8448"]
    for host, port in ((PUBLIC, 443), (HOST, 8448)):
        router.arrivals.clear()
        statuses = [fronts.ask(ports, host, "GET", target, port=port)[0] for target in TARGETS]
        assert [arrival.target for arrival in router.arrivals] == TARGETS, statuses


@each_server
def test_who_asks_and_how_is_the_word_of_the_front_alone(stand: tuple[Stand, Fronts], server: str) -> None:
    # Mutations, each seen red: $proxy_add_x_forwarded_for; option forwardfor; ProxyAddHeaders left on.
    router, fronts = stand
    ports = fronts.ports[server, "port 8448"]
    for host, port in ((PUBLIC, 443), (HOST, 8448)):
        router.arrivals.clear()
        for forged in FORGED:
            assert fronts.ask(ports, host, "GET", "/_matrix/x", forged, port=port)[0] == 200
        named = host if port == 443 else f"{host}:{port}"
        found = [
            [arrival.all(name) for name in ("X-Forwarded-For", "X-Forwarded-Proto", "Host")]
            for arrival in router.arrivals
        ]
        assert found == [[[CLIENT], ["https"], [named]]] * len(FORGED)


@each_server
def test_a_connection_to_the_router_is_kept(stand: tuple[Stand, Fronts], server: str) -> None:
    # Mutations, each seen red: nginx without keepalive; Apache with disablereuse.
    router, fronts = stand
    router.arrivals.clear()
    client = fronts.connect(fronts.ports[server, "port 8448"], PUBLIC)
    for _ in range(5):
        client.request("GET", "/_matrix/x", headers={"Host": PUBLIC})
        assert client.getresponse().read() == b"{}"
    client.close()
    assert len(router.arrivals) == 5
    # HAProxy takes another one than the first, of those that others left.
    assert len({arrival.connection for arrival in router.arrivals}) < 3


@each_server
def test_what_was_sent_once_is_not_sent_again(stand: tuple[Stand, Fronts], server: str) -> None:
    # Mutation: proxy_next_upstream left out: seen red by nginx's PUT.
    router, fronts = stand
    for method in ("POST", "PUT"):
        client = fronts.connect(fronts.ports[server, "port 8448"], PUBLIC)
        # Some try again where they had a connection before.
        client.request("GET", "/_matrix/x", headers={"Host": PUBLIC})
        assert client.getresponse().read() == b"{}"
        router.arrivals.clear()
        client.request(method, "/gone", b"{}", {"Host": PUBLIC})
        with contextlib.suppress(http.client.RemoteDisconnected, ConnectionError):
            assert client.getresponse().status >= 500
        client.close()
        assert (method, len(router.arrivals)) == (method, 1)


@each_server
def test_a_router_that_was_away_is_asked_again_at_once(stand: tuple[Stand, Fronts], server: str) -> None:
    router, fronts = stand
    ports = fronts.ports[server, "port 8448"]

    def statuses() -> list[int]:
        # The second site of Apache passes on by another line. Its 2.4.71 needs no retry=0 for this,
        # whatever its manual says.
        asked = [(PUBLIC, "/_matrix/x", 443), (HOST, "/.well-known/matrix/client", 443)]
        return [fronts.ask(ports, host, "GET", path, port=port)[0] for host, path, port in asked]

    router.leave()
    try:
        assert min(statuses()) >= 500
    finally:
        router.listen()
    assert statuses() == [200, 200]


def test_what_is_printed_for_traefik_is_yaml_that_routes(tmp_path: Path) -> None:
    toml = tmp_path / "synvisor.toml"
    toml.write_text(f'server_name = "{HOST}"\npublic_baseurl = "https://{PUBLIC}/"\n', encoding="utf-8")
    for flags, hosts in (([], {PUBLIC, HOST}), (["--federation-port"], {PUBLIC, HOST})):
        command = [str(BINARY), "front", "traefik", *flags, "--config", str(toml)]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        dynamic = yaml.safe_load(printed)["http"]
        own = "\n".join(line[4:] for line in printed.splitlines() if line.startswith("#   "))
        entry_points = yaml.safe_load(own)["entryPoints"]
        routers = dynamic["routers"].values()
        assert {
            host for router in routers for host in re.findall(r"Host\(`(.*?)`\)", router["rule"])
        } == hosts
        for router in routers:
            assert set(router["entryPoints"]) <= set(entry_points)
            servers = dynamic["services"][router["service"]]["loadBalancer"]
            assert servers["servers"] == [{"url": "http://127.0.0.1:8008"}]
            assert servers["serversTransport"] in dynamic["serversTransports"]
        assert [held["address"] for held in entry_points.values()] == [":443", *([":8448"] if flags else [])]
