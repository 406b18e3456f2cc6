"""TLS without a web server in front: HTTP/1.1 and HTTP/2, certificates that are renewed or bad.

tests/router/tls.rs, http2.rs and proxy.rs look at each part alone.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.deployment import LIVELY, Deployment, free_port, wait_for
from tests.support.endpoints import issue
from tests.support.toolchain import ROOT, prepare

PATH = "/_matrix/client/versions"


class Secure:
    """A homeserver with a listener that speaks TLS, and one behind a proxy that passes bytes on."""

    def __init__(self, workers: str, without: tuple[str, ...] = ()) -> None:
        self.port, self.proxied = free_port(), free_port()
        self.home = Deployment(workers, synapse=LIVELY, without=without)
        self.files = self.home.directory
        issue(self.files, 90)
        self.home.extra = self.listeners()
        self.home.write()

    def listeners(self, certificate: str = "tls.crt") -> str:
        return f"""[[listen]]
address = "127.0.0.1:{self.port}"
tls = [{{ certificate_file = "{certificate}", private_key_file = "tls.key" }}]
[[listen]]
address = "127.0.0.1:{self.proxied}"
proxy_protocol = true
"""

    def curl(self, *options: str, port: int | None = None, scheme: str = "https") -> str:
        """The version of HTTP that was spoken, the status, and the body."""
        port = port or self.port
        place = ["--resolve", f"localhost:{port}:127.0.0.1", f"{scheme}://localhost:{port}{PATH}"]
        command = ["curl", "-sS", "--max-time", "60", "--cacert", str(self.files / "tls.crt"), *options]
        how = ["-w", "\n%{http_version} %{http_code}"]
        done = subprocess.run([*command, *how, *place], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        body, said = done.stdout.rsplit("\n", 1)
        assert "versions" in json.loads(body)
        return said

    def shown(self) -> str:
        """The digest of the certificate that whoever comes now is shown."""
        pem = ssl.get_server_certificate(("127.0.0.1", self.port))
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

    def held(self) -> str:
        pem = (self.files / "tls.crt").read_text()
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

    def connect(self) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.files / "tls.crt"))
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=60, context=context)
        connection.connect()
        return connection

    def notes(self) -> list[str]:
        status = self.home.status()
        assert status
        return [note for note in status["notes"] if "certificate" in note]


def ask(connection: http.client.HTTPConnection) -> int:
    held = connection.sock
    connection.request("GET", PATH)
    assert connection.sock is held, "it is another connection"
    response = connection.getresponse()
    response.read()
    return response.status


@pytest.fixture(scope="module")
def unwatched() -> Iterator[Secure]:
    """One that looks at its certificates only when it is told to."""
    secure = Secure("generic = 1", without=("watch",))
    try:
        secure.home.start().wait_ready()
        yield secure
    finally:
        secure.home.close()


def test_curl_speaks_every_version_with_it(unwatched: Secure) -> None:
    assert unwatched.curl("--http1.1") == "1.1 200"
    assert unwatched.curl("--http2") == "2 200"
    assert unwatched.curl("--tlsv1.2", "--tls-max", "1.2") == "2 200"
    assert unwatched.curl("--tlsv1.3") == "2 200"
    plain = unwatched.home.port
    assert unwatched.curl(port=plain, scheme="http") == "1.1 200"
    assert unwatched.curl("--http2-prior-knowledge", port=plain, scheme="http") == "2 200"
    proxied = unwatched.proxied
    assert unwatched.curl("--haproxy-protocol", port=proxied, scheme="http") == "1.1 200"
    refused = ["curl", "-sS", f"http://127.0.0.1:{proxied}{PATH}"]
    assert subprocess.run(refused, capture_output=True, check=False).returncode != 0
    wait_for("the refusal in the log", lambda: "proxy_protocol" in unwatched.home.tail() or None)


def test_a_reload_brings_the_new_certificate_and_nobody_leaves(unwatched: Secure) -> None:
    home = unwatched.home
    before, old = home.pids(), unwatched.shown()
    assert old == unwatched.held()
    kept = unwatched.connect()
    assert ask(kept) == 200
    issue(unwatched.files, 80)
    plan = home.cli("plan")
    assert plan.returncode == 3
    assert re.search(rf"certificate of 127\.0\.0\.1:{unwatched.port} +changed", plan.stdout), plan.stdout
    assert unwatched.shown() == old
    done = home.cli("reload")
    assert done.returncode == 0, done
    assert unwatched.shown() == unwatched.held() != old
    assert ask(kept) == 200
    assert home.cli("plan").stdout == "no change\n"
    assert home.pids() == before


def test_a_key_of_another_certificate_is_refused_with_its_place(unwatched: Secure) -> None:
    home, good = unwatched.home, unwatched.held()
    key = unwatched.files / "tls.key"
    text = key.read_text()
    shutil.copy(unwatched.files / "tls.crt", unwatched.files / "good.crt")
    issue(unwatched.files, 90)
    key.write_text(text)
    check = home.cli("check")
    assert check.returncode == 78
    line = home.toml.read_text().splitlines().index(unwatched.listeners().splitlines()[2]) + 1
    assert f"synvisor.toml:{line}:" in check.stderr, check.stderr
    assert "tls.key does not belong to the certificate" in check.stderr
    reload = home.cli("reload")
    assert reload.returncode == 78
    assert "does not belong to the certificate" in reload.stderr
    assert "nothing was changed" in reload.stderr
    assert unwatched.shown() == good
    # What may still come is a warning, and so is what is too late.
    (unwatched.files / "tls.crt").unlink()
    check = home.cli("check")
    assert check.returncode == 0
    assert re.search("warning: cannot read .*tls.crt", check.stderr), check.stderr
    shutil.copy(unwatched.files / "good.crt", unwatched.files / "tls.crt")
    key.chmod(0o644)
    check = home.cli("check")
    assert "others than its owner may use it" in check.stderr
    key.chmod(0o600)
    assert home.cli("check").stderr == ""


def test_what_a_router_had_is_what_the_next_one_has(unwatched: Secure) -> None:
    assert unwatched.home.cli("restart", "router").returncode == 0
    assert unwatched.shown() == unwatched.held()
    assert unwatched.curl() == "2 200"


def test_a_renewed_certificate_is_noticed_and_a_bad_one_brings_nobody_down() -> None:
    secure = Secure("")
    home = secure.home
    try:
        home.start().wait_ready()
        assert secure.notes() == []
        first = secure.shown()
        issue(secure.files, 3)
        wait_for("the new certificate", lambda: secure.shown() == secure.held() or None, 60)
        second = secure.shown()
        assert second != first
        (note,) = secure.notes()
        assert f"the certificate of 127.0.0.1:{secure.port} (localhost) expires in 2 days" in note
        status = home.status()
        assert status
        (certificate,) = status["certificates"]
        assert certificate["names"] == ["localhost"]

        # Somebody writes it at this moment.
        good = (secure.files / "tls.crt").read_text()
        (secure.files / "tls.crt").write_text(good[:300])
        goes_on = f"127.0.0.1:{secure.port} goes on with the certificate that it has"
        wait_for("a note", lambda: any(goes_on in note for note in secure.notes()) or None, 60)
        assert secure.shown() == second
        # A supervisor that takes over finds no certificate, and the router has one.
        before = home.pids()
        home.kill()
        home.start().wait_ready()
        after = home.pids()
        assert (after["router"], after["main"]) == (before["router"], before["main"])
        assert secure.shown() == second
        without = f"127.0.0.1:{secure.port} has no certificate"
        wait_for("another note", lambda: any(without in note for note in secure.notes()) or None, 60)
        issue(secure.files, 90)
        wait_for("the third certificate", lambda: secure.shown() == secure.held() or None, 60)
        assert secure.notes() == []
        doctor = findings(home)
        assert [finding["severity"] for finding in doctor] == ["fine"]
        issue(secure.files, 3, host="example.org")
        doctor = findings(home)
        assert [finding["severity"] for finding in doctor] == ["warning", "warning"]
        assert re.search("has [23] days left", doctor[0]["what"]), doctor
        assert "is for 127.0.0.1 or localhost: example.org" in doctor[1]["what"]
    finally:
        home.close()


def findings(home: Deployment) -> list[dict[str, Any]]:
    """What the doctor says of certificates."""
    done = home.cli("doctor", "--offline", "--json")
    return [finding for finding in json.loads(done.stdout) if finding["check"] == "certificate"]


def test_no_request_fails_while_certificates_routers_and_addresses_change(unwatched: Secure) -> None:
    home = unwatched.home
    trusted = unwatched.files / "trusted.pem"
    certificates = []
    for _ in range(4):
        issue(unwatched.files, 90)
        certificates.append([(unwatched.files / name).read_text() for name in ("tls.crt", "tls.key")])
    trusted.write_text("".join([unwatched_pem(unwatched), *(chain for chain, _ in certificates)]))
    assert home.cli("reload").returncode == 0
    python = prepare("client") / "bin" / "python"
    load = subprocess.Popen(
        [str(python), "-m", "tests.support.secure_load", str(unwatched.port), str(trusted)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert load.stdout
    try:
        assert [load.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
        for chain, key in certificates:
            (unwatched.files / "tls.crt").write_text(chain)
            (unwatched.files / "tls.key").write_text(key)
            assert home.cli("reload").returncode == 0
            assert unwatched.shown() == unwatched.held()
            assert home.cli("restart", "router").returncode == 0
            assert home.cli("restart", "generic-1").returncode == 0
    finally:
        said, _ = load.communicate("", timeout=120)
    report = json.loads(said)
    for name, seen in report.items():
        assert seen["failed"] == [], (name, report)
        assert seen["ended"] >= 1, (name, report)
        assert seen["requests"] > 50, (name, report)


def unwatched_pem(secure: Secure) -> str:
    return ssl.get_server_certificate(("127.0.0.1", secure.port))
