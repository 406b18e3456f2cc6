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
from typing import Any

import pytest

from tests.support.deployment import BINARY, LIVELY, Deployment, deployed
from tests.support.matrix import Client
from tests.support.toolchain import ROOT

# The table with one worker of each kind that there is, so that each request has one process to go to.
WORKERS = 'preset = "specialized-workers"\nthread_subscriptions = 1\n'

# Thread subscriptions are behind this flag.
SYNAPSE = "[synapse.experimental_features]\nmsc4306_enabled = true\n"


@pytest.fixture(scope="module")
def home() -> Iterator[Deployment]:
    with deployed(WORKERS, admin=True, synapse=LIVELY + SYNAPSE) as deployment:
        yield deployment


@dataclass(frozen=True)
class Endpoint:
    method: str
    path: str
    servlet: str


def endpoints(home: Deployment) -> list[Endpoint]:
    """What Synapse answers as it is configured here; nothing in the paths exists, but a media server that is this one."""
    script = ROOT / "src" / "host" / "servlets.py"
    command = [str(home.venv / "bin" / "python"), "-I", "-W", "ignore", str(script)]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found = []
    for row in rows:
        pattern = row["pattern"]
        configured = "plain" in row["variants"] or "msc4306" in pattern or "msc4308" in pattern
        # A page for people, which wants its own parameters.
        if row["method"] == "*" or not configured or "password_reset" in pattern:
            continue
        path = next((path for path in row["samples"] if not path.endswith("/")), row["samples"][0])
        if "/media/" in path:
            path = path.replace("/w", f"/{home.server_name}", 1)
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
    body = None if method in ("GET", "DELETE") else b"{}"
    status, text = client.raw(method, path + query, body, {"Content-Type": "application/json"}, timeout=60)
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text.decode(errors="replace")


def test_every_class_of_request_is_answered_by_its_process(home: Deployment) -> None:
    # Mutations, each seen red: strict rules sent to main (src/route/mod.rs); receipts sent to a client reader.
    status = home.status()
    assert status
    others = ("postgres", "redis", "router")
    units = [unit["name"] for unit in status["units"] if unit["name"] not in others]
    client = home.client().register(f"u{uuid.uuid4().hex[:8]}", "a password")
    before = {unit: answers(home, unit) for unit in units}
    expected: Counter[tuple[str, str, str]] = Counter()
    wrong, classes = [], set()
    for endpoint in endpoints(home):
        method, path, servlet = endpoint.method, endpoint.path, endpoint.servlet
        asker = client
        if "/logout" in path or "/deactivate" in path:
            # What ends a session ends one of its own.
            asker = home.client().login(client.user, "a password")
            expected[owner(home, "POST", "/_matrix/client/v3/login", client.user)[0], "POST", "LoginRestServlet"] += 1
        unit, of = owner(home, method, path, client.user)
        try:
            code, answer = request(asker, method, path)
        except (OSError, http.client.HTTPException) as error:
            code, answer = 599, str(error)
        errcode = answer.get("errcode") if isinstance(answer, dict) else ""
        if code >= 500 or errcode == "M_UNRECOGNIZED":
            wrong.append(f"{method} {path} ({servlet}) at {unit}: {code} {answer}")
        expected[unit, method, servlet] += 1
        classes.add(of)
    assert not wrong, "\n".join(wrong)
    found: Counter[tuple[str, str, str]] = Counter()
    for unit in units:
        for (method, servlet), count in (answers(home, unit) - before[unit]).items():
            if servlet not in ("MetricsResource", "HealthResource"):
                found[unit, method, servlet] += count
    assert found == expected, {"unexpected": found - expected, "missing": expected - found}
    assert len(classes) >= 26, sorted(classes)
