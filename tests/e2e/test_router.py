"""The router before a real Synapse: large files, what it tells of its work, and paths that stand for others.

tests/router/ has what each part does with every byte.
"""

from __future__ import annotations

import http.client
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import LIVELY, Deployment, deployed, free_port, wait_for
from tests.support.matrix import Client

LARGEST = 50 << 20


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def home(metrics_port: int) -> Iterator[Deployment]:
    synapse = f"max_upload_size = {LARGEST}\n" + LIVELY
    with deployed("generic = 1\nmedia_repository = 1", synapse=synapse) as deployment:
        text = deployment.toml.read_text()
        more = f'[[listen]]\naddress = "127.0.0.1:{metrics_port}"\nadmin = true\nmetrics = true\n'
        more += '[router]\naccess_log = "json"\n'
        deployment.toml.write_text(text.replace("[supervisor]", more + "[supervisor]", 1))
        done = deployment.cli("reload", timeout=300)
        assert done.returncode == 0, done
        yield deployment


def router_peak(home: Deployment) -> int:
    """The most memory that the router ever had, in KiB."""
    status = home.status()
    assert status
    pid = next(unit["pid"] for unit in status["units"] if unit["name"] == "router")
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found
    return int(found[1])


def test_the_largest_file_comes_back_byte_by_byte_and_the_router_stays_small(home: Deployment) -> None:
    # Mutation: the body of an upload gathered before it is passed on: seen red.
    user = Client(home.port)
    user.register("uploader", "secret-123")
    sent = os.urandom(LARGEST)
    # Whatever a request takes has been taken.
    user.call("GET", "/_matrix/client/v3/account/whoami")
    before = router_peak(home)
    status, answer = user.raw(
        "POST", "/_matrix/media/v3/upload", sent, {"Content-Type": "application/octet-stream"}, 120
    )
    assert status == 200, answer
    media = json.loads(answer)["content_uri"].removeprefix("mxc://")
    status, came = user.raw("GET", f"/_matrix/client/v1/media/download/{media}", None, {}, 120)
    assert status == 200
    assert came == sent
    grown = router_peak(home) - before
    assert grown < 8 * 1024, f"the router took {grown} KiB for it"
    headers = {"Content-Length": str(LARGEST + 1), "Expect": "100-continue"}
    status, answer = user.raw("POST", "/_matrix/media/v3/upload", None, headers)
    assert (status, json.loads(answer)["errcode"]) == (413, "M_TOO_LARGE")


def test_prometheus_finds_the_requests_of_each_class_and_unit(home: Deployment, metrics_port: int) -> None:
    user = Client(home.port)
    user.register("measured", "secret-123")
    user.call("GET", "/_matrix/client/v3/sync?timeout=0")
    connection = http.client.HTTPConnection("127.0.0.1", metrics_port, timeout=30)
    connection.request("GET", "/_synvisor/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    labels = r'class="(\w+)",unit="([\w-]*)",status="2xx"'
    counted = re.findall(rf"synvisor_router_requests_total\{{{labels}\}} (\d+)", text)
    assert ("initial_sync", "generic-1", "1") in counted, text
    assert "synvisor_router_upstream_duration_seconds_bucket" in text
    assert text.endswith("# EOF\n")


def test_the_access_log_says_who_answered_and_never_with_what_token(home: Deployment) -> None:
    user = Client(home.port)
    user.register("logged", "secret-123")
    token, user.token = user.token, None
    assert token
    user.call("GET", f"/_matrix/client/v3/sync?timeout=0&access_token={token}&set_presence=offline")

    def found() -> dict[str, object] | None:
        for line in home.cli("logs", "router").stdout.splitlines():
            if line.startswith("{") and "set_presence=offline" in line:
                parsed: dict[str, object] = json.loads(line)
                return parsed
        return None

    line = wait_for("the line of a request", found, 30)
    assert line["target"] == "/_matrix/client/v3/sync?timeout=0&access_token=<redacted>&set_presence=offline"
    assert (line["method"], line["status"], line["class"], line["unit"]) == (
        "GET",
        200,
        "initial_sync",
        "generic-1",
    )
    assert (line["client"], line["attempts"], line["parked_ms"]) == ("127.0.0.1", 1, 0)
    assert token not in home.cli("logs", "router").stdout


def test_synapse_takes_no_path_for_another_one(home: Deployment, metrics_port: int) -> None:
    """The router compares paths as they are written, and so must whoever is behind it."""
    admin = Client(home.port)
    admin.token = home.administrator(metrics_port).token
    for path in [
        "/%5Fsynapse/admin/v1/server_version",
        "/_synapse%2Fadmin/v1/server_version",
        "//_synapse/admin/v1/server_version",
        "/_synapse//admin/v1/server_version",
        "/_matrix/../_synapse/admin/v1/server_version",
        "/_synapse/./admin/v1/server_version",
        "/_SYNAPSE/admin/v1/server_version",
        "/_synapse/admin/v1/server_version",
    ]:
        status, answer = admin.raw("GET", path, None, {})
        assert status in (400, 403, 404), f"{path}: {status} {answer!r}"
        assert b"server_version" not in answer
