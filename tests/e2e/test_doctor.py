"""`doctor` looks at a real homeserver, from inside and from outside; src/doctor/tests.rs has every fault."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.support.deployment import Deployment, free_port
from tests.support.endpoints import TlsFront, Tunnel

Findings = dict[str, tuple[str, str]]


@dataclass
class World:
    home: Deployment
    front: TlsFront
    tunnel: Tunnel


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    port = free_port()
    # What LIVELY allows everybody is what a doctor complains of.
    home = Deployment("generic = 1", server_name=f"localhost:{port}", synapse="trusted_key_servers = []")
    home.public_baseurl = f"https://localhost:{port}/"
    home.write()
    front = TlsFront(port, home.port, home.directory)
    # Whoever asks for a name without a port asks port 443, which is not ours to have.
    tunnel = Tunnel(port)
    try:
        home.start().wait_ready()
        yield World(home, front, tunnel)
    finally:
        home.close()
        front.close()
        tunnel.close()


@pytest.fixture(autouse=True)
def good_front(world: World) -> None:
    """A web server in front as it should be: it says who asks, whatever that one says."""
    world.front.says = lambda _: "127.0.0.1"


def doctor(world: World, *arguments: str, exits: int = 0) -> Findings:
    """What each check says, the worst of it."""
    done = subprocess.run(
        world.home.command("doctor", "--json", *arguments),
        capture_output=True,
        text=True,
        check=False,
        env=world.tunnel.environment(world.home.directory),
    )
    assert done.returncode == exits, done
    worst: Findings = {}
    for finding in json.loads(done.stdout):
        worst.setdefault(finding["check"], (finding["severity"], finding["what"]))
    return worst


def faults(findings: Findings) -> set[str]:
    # The tests' machine may have nobody who keeps its clock, and little room.
    return {check for check, (word, _) in findings.items() if word in ("warning", "error")} - {
        "clock",
        "disk",
    }


def test_a_homeserver_that_is_well_has_no_fault(world: World) -> None:
    findings = doctor(world)
    assert not faults(findings), findings
    assert findings["collation"][1] == "UTF8, C"
    assert findings["delegation"][0] == findings["clients"][0] == findings["X-Forwarded-For"][0] == "fine", (
        findings
    )
    assert findings["X-Forwarded-For"][1].endswith("127.0.0.1"), findings
    assert findings["admin API"] == ("fine", "is not reachable from outside")
    assert len(findings) >= 17
    table = world.home.cli("doctor", "--offline")
    assert table.returncode == 0, table
    assert "left out by --offline" in table.stdout, table


@pytest.mark.parametrize(
    ("says", "word", "what"),
    [
        (lambda _: "198.51.100.7", "fine", "seen as 198.51.100.7"),
        (lambda came: f"{came}, 198.51.100.7", "fine", "seen as 198.51.100.7"),
        (lambda came: came, "error", "passes on"),
        # It was asked from an address that is believed.
        (lambda came: f"{came}, 127.0.0.1", "unknown", "trusted_proxies"),
        (lambda _: "", "warning", "every client"),
        # Another web server before it.
        (lambda _: "127.0.0.9", "warning", "every client"),
    ],
    ids=["sets it", "appends", "passes it on", "appends us", "removes it", "names another"],
)
def test_what_a_web_server_in_front_says_is_seen(
    world: World, says: Callable[[str], str], word: str, what: str
) -> None:
    world.front.says = says
    findings = doctor(world, exits=int(word == "error"))
    assert findings["X-Forwarded-For"][0] == word, findings
    assert what in findings["X-Forwarded-For"][1], findings


def test_faults_of_a_real_homeserver_are_found(world: World) -> None:
    # Mutation: a secret in the TOML not looked for: seen red.
    home = world.home
    secret = home.state / "secrets" / "macaroon_secret_key"
    secret.chmod(0o644)
    text = home.toml.read_text(encoding="utf-8")
    home.top = "trusted_proxies = []"
    home.synapse += "\nenable_registration = true\nenable_registration_without_verification = true"
    home.admin = True
    home.write()
    try:
        # Nobody believes the web server in front, whatever it says.
        assert home.cli("reload").returncode == 0
        findings = doctor(world, exits=1)
        # A secret in a file that everybody may read.
        home.toml.write_text(
            text.replace("[synapse]", '[synapse]\nturn_shared_secret = "a secret"'), encoding="utf-8"
        )
        with_secret = doctor(world, "--offline", exits=1)["modes"]
    finally:
        secret.chmod(0o600)
        home.toml.write_text(text, encoding="utf-8")
        assert home.cli("reload").returncode == 0
    assert faults(findings) == {"modes", "registration", "admin API", "X-Forwarded-For"}, findings
    assert "is not believed" in findings["X-Forwarded-For"][1], findings
    assert str(secret) in findings["modes"][1]
    assert str(home.toml) not in findings["modes"][1]
    assert str(home.toml) in with_secret[1]


def test_what_the_service_alone_may_read_is_no_fault(world: World) -> None:
    # Mutation: whether the password was read not looked at: seen red.
    home = world.home
    text = home.toml.read_text(encoding="utf-8")
    outside = f"""[database]
mode = "external"
host = "127.0.0.1"
port = {free_port()}
password_file = "$CREDENTIALS_DIRECTORY/database"
[redis]
mode = "external"
host = "127.0.0.1"
port = {free_port()}
password_file = "{home.directory}/nothing"
"""
    home.toml.write_text(text.replace(home.services, outside), encoding="utf-8")
    try:
        findings = doctor(world, "--offline", exits=1)
    finally:
        home.toml.write_text(text, encoding="utf-8")
    assert findings["database"][0] == "unknown", findings
    assert "credential database is there for the service alone" in findings["database"][1], findings
    # Nothing starts without one that is missing.
    assert findings["redis"][0] == "unknown", findings
    assert findings["secrets"][0] == "error", findings
    assert f"{home.directory}/nothing" in findings["secrets"][1], findings


def test_a_homeserver_that_is_stopped_is_looked_at_all_the_same(world: World) -> None:
    # Mutation: a port that cannot be bound taken for free: seen red.
    world.home.stop()
    findings = doctor(world, exits=1)
    assert {"database", "redis", "delegation", "clients"} == faults(findings), findings
    assert findings["open files"] == ("unknown", "not looked at: synvisor is not running")
    assert findings["admin API"][0] == "unknown"
    assert findings["port"][0] == "fine"
    with socket.create_server(("127.0.0.1", world.home.port)):
        findings = doctor(world, "--offline", exits=1)
    assert findings["port"][0] == "error", findings
    assert f"127.0.0.1:{world.home.port} cannot be had" in findings["port"][1], findings


def test_a_media_store_that_is_gone_is_a_fault(world: World) -> None:
    # Mutation: taken for one that may not be looked at: seen red.
    # The homeserver is stopped by now.
    media = world.home.state / "media_store"
    media.rename(media.with_name("kept"))
    media.symlink_to(world.home.directory / "gone")
    try:
        findings = doctor(world, "--offline", exits=1)
    finally:
        media.unlink()
        media.with_name("kept").rename(media)
    assert findings["disk"][0] == "error", findings
    assert f"{world.home.directory}/gone" in findings["disk"][1], findings


def test_who_has_no_virtualenv_is_told_what_makes_it() -> None:
    home = Deployment()
    try:
        home.python = 'venv = "/nowhere"'
        home.write()
        done = home.cli("doctor", "--offline", "--json")
    finally:
        home.close()
    database = next(found for found in json.loads(done.stdout) if found["check"] == "database")
    assert (database["severity"], database["remedy"]) == ("error", "synvisor init makes the virtualenv"), (
        database
    )
