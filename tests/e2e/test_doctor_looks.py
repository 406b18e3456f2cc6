"""What doctor.py sees of databases, and of web servers that answer oddly; src/doctor/tests.rs judges it."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.bench.services import Services
from tests.support.deployment import wait_for
from tests.support.endpoints import Tunnel, certificate
from tests.support.toolchain import ROOT, prepare

SCRIPT = (ROOT / "src/host/doctor.py").read_text(encoding="utf-8")
FORGED = "192.0.2.1"
NO_MATRIX = {"Wrong": "it is not the JSON that the Matrix specification wants"}


def look(asked: dict[str, Any], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """As synvisor has it look (src/host/python.rs)."""
    command = [prepare() / "bin" / "python", "-I", "-W", "ignore", "-c", SCRIPT]
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    # serde_json takes nothing that is no Unicode.
    json.dumps(found, ensure_ascii=False).encode()
    return found


class Site:
    """A site of localhost with TLS, which answers each path as it is told to, and the rest with 404."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.answers: dict[str, tuple[int, dict[str, str], str]] = {}
        self.came: list[tuple[str, Message]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.came.append((self.path, self.headers))
                status, headers, text = site.answers.get(self.path, (404, {}, ""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing: pytest shows the output of failing tests only."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        # The thread of a connection does it, so that one who says nothing keeps nobody waiting.
        self.server.socket = certificate(directory).wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self.server.server_port
        self.tunnel = Tunnel(self.port)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path: str, value: Any, status: int = 200, **headers: str) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        self.answers[path] = (status, {name.replace("_", "-"): held for name, held in headers.items()}, text)

    def public(self, server_name: str = "") -> dict[str, Any]:
        asked = {
            "server_name": server_name or f"localhost:{self.port}",
            "public_baseurl": f"https://localhost:{self.port}/",
            "forged": FORGED,
        }
        found = look(asked, self.tunnel.environment(self.directory))
        assert set(found) == {"public"}
        public: dict[str, Any] = found["public"]["Ok"]
        return public

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.tunnel.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    try:
        yield site
    finally:
        site.close()


@pytest.mark.parametrize(
    ("status", "answer", "found"),
    [
        (404, "", "Absent"),
        (500, "", {"Wrong": "it answers 500"}),
        (200, "<html>a site of its own", NO_MATRIX),
        (200, [], NO_MATRIX),
        (200, {}, NO_MATRIX),
        (200, {"m.server": 5}, NO_MATRIX),
        (200, {"m.server": ["m.example.com"]}, NO_MATRIX),
        (200, {"m.server": ""}, NO_MATRIX),
        (200, {"m.server": "m.example.com:PORT"}, NO_MATRIX),
        (200, {"m.server": "m.example.com:8448:443"}, NO_MATRIX),
        (200, {"m.server": "m.example.com:99999"}, NO_MATRIX),
        (200, {"m.server": "https://m.example.com"}, NO_MATRIX),
        (200, {"m.server": "[abc"}, NO_MATRIX),
        (200, {"m.server": "m\ud800:443"}, NO_MATRIX),
        (200, "[" * 60_000, NO_MATRIX),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_answer_to_a_server_is_said(site: Site, status: int, answer: Any, found: Any) -> None:
    # Mutations, each seen red: the name of a server not looked at; what is no text made one; half a surrogate
    # pair passed on; a URL taken for a name; what nests too deep not caught.
    site.answer("/.well-known/matrix/server", answer, status)
    public = site.public("localhost")
    assert public["server"] == found
    # Other servers go on without it.
    assert public["by_record"] == "localhost"
    assert "localhost:8448" in public["federation"]["Err"]


def test_where_other_servers_are_led_is_asked(site: Site) -> None:
    # Mutations, each seen red: SRV records looked for though a port is named; any server_name taken.
    site.answer("/.well-known/matrix/server", {"m.server": f"localhost:{site.port}"})
    site.answer("/_matrix/key/v2/server", {"server_name": "other.example.com"})
    public = site.public("localhost")
    assert public["server"]["Says"]["value"] == f"localhost:{site.port}"
    assert (public["federation"], public["by_record"]) == ({"Ok": "other.example.com"}, None)
    # They ask for whom they were told of.
    assert dict(site.came)["/_matrix/key/v2/server"]["Host"] == f"localhost:{site.port}"
    for odd in ({"server_name": 5}, [], "<html>"):
        site.answer("/_matrix/key/v2/server", odd)
        assert "not as a homeserver does" in site.public()["federation"]["Err"]


def test_a_record_leads_to_a_host_that_proves_the_name(site: Site) -> None:
    # Mutations, each seen red: the target has to prove its own name; Host left to the library.
    site.answer("/_matrix/key/v2/server", {"server_name": "localhost"})
    environment = site.tunnel.environment(site.directory)
    # The certificate is for localhost, and for no address.
    found = look({"record": ["localhost", "127.0.0.1", site.port]}, environment)
    assert found == {"federation": {"Ok": "localhost"}}
    assert site.came[0][1]["Host"] == "localhost"
    found = look({"record": ["other.example.com", "127.0.0.1", site.port]}, environment)
    assert "CERTIFICATE_VERIFY_FAILED" in found["federation"]["Err"], found


def test_what_clients_are_told_is_asked_of_the_host_whatever_the_port(site: Site) -> None:
    # Mutations, each seen red: asked at the port of server_name; CORS not looked at; no text made one.
    path = "/.well-known/matrix/client"
    told = {"m.homeserver": {"base_url": "https://localhost/"}}
    site.answer(path, told, Access_Control_Allow_Origin="*")
    assert site.public()["client"] == {"Says": {"value": "https://localhost/", "cors": True}}
    assert "localhost:443" in site.tunnel.asked
    site.answer(path, told)
    assert site.public()["client"] == {"Says": {"value": "https://localhost/", "cors": False}}
    for odd in ({"m.homeserver": {"base_url": 5}}, {"m.homeserver": []}, 7, "<html>"):
        site.answer(path, odd, Access_Control_Allow_Origin="*")
        assert site.public()["client"] == NO_MATRIX


def test_a_router_is_told_from_what_answers_in_its_place(site: Site) -> None:
    # Mutations, each seen red: any answer to /versions taken; odd headers of the router's not caught.
    versions = "/_matrix/client/versions"
    for status, odd in ((502, ""), (200, 7), (200, "<html>"), (200, {})):
        site.answer(versions, odd, status)
        why = f"it answers {status}, and not as a homeserver does"
        public = site.public()
        assert (public["clients"], public["seen"]) == ({"Err": why}, None)
    site.answer(versions, {"versions": []})
    for client, believed in (("nonsense", "1"), ("10.0.0.2", "many"), ("10.0.0.2", "")):
        site.answer("/health", "OK", Synvisor_Client=client, Synvisor_Believed=believed)
        public = site.public()
        # What is answered is a homeserver's all the same.
        assert (public["clients"], public["seen"]) == ({"Ok": None}, None)
    site.answer("/health", "OK", Synvisor_Client="10.0.0.2", Synvisor_Believed="0")
    public = site.public()
    assert public["clients"] == {"Ok": None}
    assert public["seen"] == {"address": "10.0.0.2", "believed": 0}
    assert (public["from"], public["admin"]) == ("127.0.0.1", 404)
    assert [held["X-Forwarded-For"] for path, held in site.came if path == "/health"][-1] == FORGED


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    services = Services(prepare())
    try:
        yield services
    finally:
        services.close()


def database(services: Services, name: str, user: str) -> dict[str, Any]:
    found: dict[str, Any] = look({"connection": connection(services, name, user)})["database"]
    return found


def connection(services: Services, name: str, user: str) -> dict[str, str]:
    return {"host": str(services.directory), "dbname": name, "user": user}


def test_sessions_of_other_roles_are_counted(services: Services) -> None:
    # Mutations, each seen red: only those counted whose kind is known; those in our own database counted too.
    import psycopg2

    for statement in ("CREATE ROLE ordinary LOGIN", "CREATE ROLE other LOGIN"):
        services.run(*statements(services, statement))
    held = [psycopg2.connect(**connection(services, "postgres", "other")) for _ in range(3)]
    # Those of this homeserver are counted otherwise.
    held.append(psycopg2.connect(**connection(services, "synapse", "other")))
    try:
        # What made the roles may not have gone yet.
        wait_for(
            "three others",
            lambda: database(services, "synapse", "ordinary")["Ok"]["others"] == 3 or None,
            30,
        )
    finally:
        for session in held:
            session.close()


def test_what_a_database_was_made_with_is_said(services: Services) -> None:
    found = database(services, "synapse", "synapse")["Ok"]
    assert (found["encoding"], found["collate"], found["ctype"]) == ("UTF8", "C", "C")
    assert found["max_connections"] == 800
    assert found["version"] >= 140_000
    made = "CREATE DATABASE wrong TEMPLATE template0 LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'"
    services.run(*statements(services, made))
    found = database(services, "wrong", "synapse")["Ok"]
    assert found["collate"] != "C" and found["ctype"] != "C"
    assert "does not exist" in database(services, "none", "synapse")["Err"]


def statements(services: Services, text: str) -> list[object]:
    return [
        services.programs / "psql",
        "-h",
        services.directory,
        "-U",
        "synapse",
        "-d",
        "synapse",
        "-qc",
        text,
    ]
