"""`doctor` looks at a real homeserver, from inside and from outside; src/doctor/tests.rs has every fault."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.deployment import Deployment, free_port
from tests.support.endpoints import TlsFront

Findings = dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def home() -> Iterator[Deployment]:
    port = free_port()
    # What LIVELY allows everybody is what a doctor complains of.
    home = Deployment("generic = 1", server_name=f"localhost:{port}", synapse="trusted_key_servers = []")
    home.top = "trusted_proxies = []"
    home.write()
    front = TlsFront(port, home.port, home.directory)
    try:
        yield home.start().wait_ready()
    finally:
        home.close()
        front.close()


def doctor(home: Deployment, *arguments: str, exits: int = 0) -> Findings:
    """What each check says, the worst of it."""
    environment = {**os.environ, "SSL_CERT_FILE": str(home.directory / "tls.crt")}
    done = subprocess.run(
        home.command("doctor", "--json", *arguments),
        capture_output=True,
        text=True,
        check=False,
        env=environment,
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


def test_a_homeserver_that_is_well_has_no_fault(home: Deployment) -> None:
    findings = doctor(home)
    assert not faults(findings), findings
    assert findings["collation"][1] == "UTF8, C"
    assert findings["delegation"][0] == findings["clients"][0] == findings["X-Forwarded-For"][0] == "fine", (
        findings
    )
    assert findings["X-Forwarded-For"][1].endswith("127.0.0.1"), findings
    assert len(findings) >= 16
    table = home.cli("doctor", "--offline")
    assert table.returncode == 0, table
    assert "left out by --offline" in table.stdout, table


def test_faults_of_a_real_homeserver_are_found(home: Deployment) -> None:
    secret = home.state / "secrets" / "macaroon_secret_key"
    secret.chmod(0o644)
    text = home.toml.read_text(encoding="utf-8")
    home.top = ""
    home.synapse += "\nenable_registration = true\nenable_registration_without_verification = true"
    home.admin = True
    home.write()
    try:
        # The web server in front passes on what a client says of itself, and the router is to believe it.
        assert home.cli("reload").returncode == 0
        findings = doctor(home, exits=1)
    finally:
        secret.chmod(0o600)
        home.toml.write_text(text, encoding="utf-8")
        assert home.cli("reload").returncode == 0
    assert faults(findings) == {"modes", "registration", "admin API", "X-Forwarded-For"}, findings
    assert str(secret) in findings["modes"][1]


def test_a_homeserver_that_is_stopped_is_looked_at_all_the_same(home: Deployment) -> None:
    home.stop()
    findings = doctor(home, exits=1)
    assert {"database", "redis", "delegation", "clients"} == faults(findings), findings
    assert findings["open files"] == ("unknown", "not looked at: synvisor is not running")
    assert findings["port"][0] == "fine"
