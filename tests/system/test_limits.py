"""What systemd limits for the service: descriptors, memory, addresses; on a kernel that has all of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import EMBEDDED, ROOT_USER, wait_for
from tests.support.toolchain import prepare

from .guest import Guest
from .machine import base, suites
from .service import TOML, UNIT, package, python

pytestmark = pytest.mark.timeout(1800)

PORT = 8008
# A start takes minutes there.
LONG = 900.0

# Asks for the versions, from an address of this machine.
ASK = """
import http.client, sys
source = (sys.argv[2], 0)
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=10, source_address=source)
try:
    connection.request("GET", "/_matrix/client/versions")
    print(connection.getresponse().status)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    if not ROOT_USER:
        pytest.skip("only root can make the disk of a machine")
    with tempfile.TemporaryDirectory(prefix="synvisor-tree-") as directory:
        tree = Path(directory) / "tree"
        subprocess.run(["cp", "--archive", "--reflink=auto", base(suites()[0]), tree], check=True)
        venv = prepare().resolve()
        for seen, held in python(venv).items():
            place = tree / str(seen).removeprefix("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "--archive", "--no-target-directory", held, place], check=True)
        shutil.copy(package("deb"), tree / "synvisor.deb")
        inside = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe", "--resolv-conf=off"]
        subprocess.run(
            [*inside, "-D", tree, "dpkg", "--install", "/synvisor.deb"], check=True, capture_output=True
        )
        (tree / TOML.removeprefix("/")).write_text(
            f"""server_name = "localhost"
[workers]
generic = 1
{EMBEDDED}
[python]
venv = "{venv}"
[[listen]]
address = "127.0.0.1:{PORT}"
""",
            encoding="utf-8",
        )
        guest = Guest(tree)
        try:
            guest.boot().run("systemd-tmpfiles", "--create", "synvisor.conf")
            guest.run("systemctl", "start", UNIT, seconds=LONG)
            wait_ready(guest)
            yield guest
        finally:
            guest.stop()


def status(guest: Guest) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(guest.run("synvisor", "status", "--json").stdout)
    return answer


def wait_ready(guest: Guest) -> None:
    try:
        wait_for("it is ready", lambda: True if status(guest)["state"] == "ready" else None, LONG)
    except AssertionError as error:
        journal = guest.run("journalctl", "--unit", UNIT, "--no-pager", "--lines=100").stdout
        raise AssertionError(f"{error}\n{json.dumps(status(guest), indent=1)}\n{journal}") from None


def shown(guest: Guest, name: str) -> str:
    return guest.run("systemctl", "show", "--value", f"--property={name}", UNIT).stdout.strip()


def ask(guest: Guest, source: str) -> str:
    return guest.run(f"{prepare().resolve()}/bin/python3", "-c", ASK, str(PORT), source).stdout.strip()


def test_supervisor_and_router_may_have_all_the_descriptors_of_the_unit(guest: Guest) -> None:
    pids = {unit["name"]: unit["pid"] for unit in status(guest)["units"]}
    for pid in (shown(guest, "MainPID"), str(pids["router"])):
        limits = guest.run("cat", f"/proc/{pid}/limits").stdout.splitlines()
        assert (
            next(line.split()[3:5] for line in limits if line.startswith("Max open files")) == ["65536"] * 2
        )


def test_want_of_memory_ends_one_process_and_that_comes_back(guest: Guest) -> None:
    supervisor = shown(guest, "MainPID")
    cgroup = f"/sys/fs/cgroup{shown(guest, 'ControlGroup')}"
    used = guest.run("cat", f"{cgroup}/memory.stat").stdout.split()
    anonymous = int(used[used.index("anon") + 1])
    too_little = f"MemoryMax={anonymous * 3 // 4}"
    guest.run("systemctl", "set-property", "--runtime", UNIT, too_little, "MemorySwapMax=0")

    def killed() -> int | None:
        events = guest.run("cat", f"{cgroup}/memory.events").stdout.split()
        return int(events[events.index("oom_kill") + 1]) or None

    wait_for("somebody is killed", killed)
    guest.run("systemctl", "set-property", "--runtime", UNIT, "MemoryMax=infinity")
    wait_ready(guest)
    assert shown(guest, "MainPID") == supervisor
    assert shown(guest, "NRestarts") == "0"
    assert shown(guest, "ActiveState") == "active"
    assert [unit for unit in status(guest)["units"] if unit["restarts"] and "signal 9" in unit["reason"]]


def test_addresses_that_the_administrator_denies_do_not_get_in(guest: Guest) -> None:
    assert [ask(guest, source) for source in ("127.0.0.1", "127.0.0.2")] == ["200", "200"]
    guest.run(
        "systemctl", "set-property", "--runtime", UNIT, "IPAddressDeny=any", "IPAddressAllow=127.0.0.1/32"
    )
    assert [ask(guest, source) for source in ("127.0.0.1", "127.0.0.2")] == ["200", "TimeoutError"]
