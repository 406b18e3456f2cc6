"""Every request that Synapse answers at all is answered, and by the process that the table names."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import BINARY, LIVELY, Deployment, deployed
from tests.support.matrix import Client
from tests.support.toolchain import ROOT

# The table with one worker of each kind that there is, so that each request has one process to go to.
WORKERS = 'preset = "specialized-workers"\nthread_subscriptions = 1\n'

# Without these Synapse has nothing there.
SYNAPSE = """
federation_whitelist_endpoint_enabled = true
experimental_features.msc4306_enabled = true
cas_config = { enabled = true, server_url = "https://cas.invalid" }
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Deployment]:
    with deployed(WORKERS, admin=True, synapse=SYNAPSE + LIVELY) as deployment:
        yield deployment


@dataclass(frozen=True)
class Endpoint:
    method: str
    path: str
    servlet: str


def endpoints(home: Deployment) -> list[Endpoint]:
    """What Synapse answers as it is configured here; of what is named only the media's server exists."""
    script = ROOT / "src" / "host" / "servlets.py"
    command = [str(home.venv / "bin" / "python"), "-I", "-W", "ignore", str(script)]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found = []
    for row in rows:
        pattern = row["pattern"]
        configured = "plain" in row["variants"] or re.search("msc4306|msc4308|cas", pattern)
        # A page for people, which wants its own parameters.
        if row["method"] == "*" or not configured or "password_reset" in pattern:
            continue
        # No part left empty, and with all that may be there.
        path = max(row["samples"], key=lambda path: ("//" not in path, not path.endswith("/"), len(path)))
        if "/media/" in path:
            path = path.replace("/w", f"/{home.server_name}", 1)
        # Which rule is meant the servlet finds out by itself, and calls what is none unrecognized.
        path = path.replace("/pushrules/w", "/pushrules/global/content/w")
        found.append(Endpoint(row["method"], path, row["servlet"]))
    return found


def owner(home: Deployment, method: str, path: str, user: str) -> tuple[str, str]:
    """Unit and class of a request, as `synvisor route` says."""
    command = [str(BINARY), "route", method, path, "--user", user, "--config", str(home.toml)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    unit, rule = re.search(r"unit: +(\S+)", said), re.search(r"class (\w+)", said)
    assert unit, said
    return unit.group(1), rule.group(1) if rule else ""


def answers(home: Deployment, unit: str) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for line in home.metrics(unit).splitlines():
        if line.startswith("synapse_http_server_response_count_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            found[labels["method"], labels["servlet"]] += int(float(line.rpartition(" ")[2]))
    return found


def request(client: Client, method: str, path: str) -> tuple[int, Any]:
    # No request waits for something to happen.
    query = "?timeout=0" if path.endswith(("/sync", "/events")) else ""
    # For a backup without an algorithm Synapse has a 500 of its own.
    backup = b'{"algorithm": "x", "auth_data": {}}'
    body = (backup if "room_keys/version" in path else b"{}") if method in ("POST", "PUT") else None
    status, text = client.raw(method, path + query, body, {"Content-Type": "application/json"}, timeout=60)
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text.decode(errors="replace")


# Servlets that workers have under another name than main (`synapse/rest/admin/__init__.py`, 1.163).
ON_WORKERS = {"UserRestServletV2Get": "UserRestServletV2"}


# A thousand requests and hundreds of commands, which take long where other things are built beside it.
@pytest.mark.timeout(1800)
def test_every_class_of_request_is_answered_by_its_process(home: Deployment) -> None:
    # Seen red: requests that the chosen process answers with a 500 or calls unrecognized, each named.
    status = home.status()
    assert status
    others = ("postgres", "redis", "forkserver", "router")
    units = [unit["name"] for unit in status["units"] if unit["name"] not in others]
    client, other = (home.client().register(f"u{uuid.uuid4().hex[:8]}", "a password") for _ in range(2))
    before = {unit: answers(home, unit) for unit in units}
    expected: Counter[tuple[str, str, str]] = Counter()
    wrong, classes = [], set()
    for endpoint in endpoints(home):
        method, path, servlet = endpoint.method, endpoint.path, endpoint.servlet
        asker = client
        if "/logout" in path or "/deactivate" in path:
            # What ends sessions must not end the one that asks for the rest.
            asker = home.client().login(other.user, "a password")
            reader = owner(home, "POST", "/_matrix/client/v3/login", other.user)[0]
            expected[reader, "POST", "LoginRestServlet"] += 1
        unit, of = owner(home, method, path, client.user)
        # HEAD is served wherever GET is, and a pre-flight by whoever would answer what it asks about.
        for asked in [method, *(["HEAD"] if method == "GET" else []), "OPTIONS"]:
            try:
                code, answer = request(asker, asked, path)
            except (OSError, http.client.HTTPException) as error:
                code, answer = 599, str(error)
            errcode = answer.get("errcode") if isinstance(answer, dict) else ""
            # Previews are off, and their servlet says so in these words; that it was asked is counted below.
            unknown = errcode == "M_UNRECOGNIZED" and "preview_url" not in path
            if code >= 500 or unknown or (asked == "OPTIONS" and code >= 300):
                wrong.append(f"{asked} {path} ({servlet}) at {unit}: {code} {answer}")
            if asked != "OPTIONS":
                expected[unit, asked, servlet] += 1
        classes.add(of)
    assert not wrong, "\n".join(wrong)
    # A sync that goes on from an earlier one wants that one's token.
    client.sync()
    client.sync()
    for query in ("", "?since=s1"):
        unit, of = owner(home, "GET", f"/_matrix/client/v3/sync{query}", client.user)
        expected[unit, "GET", "SyncRestServlet"] += 1
        classes.add(of)
    found: Counter[tuple[str, str, str]] = Counter()
    for unit in units:
        for (method, servlet), count in (answers(home, unit) - before[unit]).items():
            # What processes ask each other is not the router's.
            own = servlet in ("MetricsResource", "HealthResource") or "Replication" in servlet
            if not own and method != "OPTIONS":
                found[unit, method, ON_WORKERS.get(servlet, servlet)] += count
    assert found == expected, {"unexpected": found - expected, "missing": expected - found}
    rules = (ROOT / "src" / "route" / "rules.tsv").read_text(encoding="utf-8").splitlines()
    known = {line.split("\t")[2] for line in rules if not line.startswith("#")}
    # Nobody has the one, and the other is below.
    assert classes == known - {"deny", "mas"}


def test_the_installed_synapse_is_the_one_that_the_table_describes(home: Deployment) -> None:
    # tests/verify.rs sees it red on a table without ten of the rules.
    said = home.cli("routes", "--verify")
    assert said.returncode == 0, said.stderr
    assert "endpoints go where they are answered" in said.stdout
    assert len(said.stdout.splitlines()) == 1, said.stdout


def test_what_the_authentication_service_asks_is_answered_by_workers(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a-secret", encoding="utf-8")
    secret.chmod(0o600)
    service = f'enabled = true\nendpoint = "http://mas.invalid/"\nsecret = {{ secret_file = "{secret}" }}\n'
    settings = f"password_config.enabled = false\n[synapse.matrix_authentication_service]\n{service}"
    with deployed("generic = 1", synapse=settings) as home:
        client = home.client()
        client.token = "a-secret"
        path = "/_synapse/mas/is_localpart_available?localpart=alice"
        assert owner(home, "GET", path, "@a:b") == ("generic-1", "mas")
        assert request(client, "GET", path)[0] == 200
        asked = {
            unit: [name for _, name in answers(home, unit) if name.startswith("Mas")]
            for unit in ("main", "generic-1")
        }
        assert asked["generic-1"] and not asked["main"], asked
        # What Synapse then leaves to the service it does not know, and `route` says so.
        login = "/_matrix/client/v3/login"
        assert request(client, "GET", login)[1]["errcode"] == "M_UNRECOGNIZED"
        assert "Matrix Authentication Service" in home.cli("route", "GET", login).stdout
