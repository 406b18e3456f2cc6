"""Another synvisor takes the place of the one that runs, whichever is newer, and nobody notices."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import BINARY, LIVELY, Deployment, wait_for
from tests.support.toolchain import ROOT
from tests.support.traffic import UNLIMITED, Traffic

from .test_overlap import Poll
from .test_restarts import nothing_failed

pytestmark = [pytest.mark.timeout(1800), pytest.mark.busy]

# The same program, whose state has a field more and one of another name; made by `make e2e`.
NEXT = ROOT / "target" / "next" / "synvisor"
# How often it is replaced under load; `UPGRADES=20` takes some five minutes.
UPGRADES = int(os.environ.get("UPGRADES", "6"))
# What an upgrade replaces: both go with the supervisor's own version.
OWN = {"forkserver", "router"}


@pytest.fixture(scope="module")
def home() -> Iterator[Deployment]:
    # What is not passed on would otherwise be copied from the processes that have it, and not be missed.
    home = Deployment('preset = "one-of-each"', synapse=UNLIMITED + LIVELY, without=("copies",))
    home.binary = home.directory / "synvisor"
    try:
        install(home, BINARY)
        yield home.start().wait_ready()
    finally:
        home.close()


def install(home: Deployment, program: Path) -> None:
    """As a package manager does it: another file under the same name."""
    new = home.binary.with_name("synvisor.dpkg-new")
    shutil.copy(program, new)
    new.rename(home.binary)


def version(home: Deployment) -> int:
    state = json.loads((home.run / "state.json").read_text(encoding="utf-8"))
    number: int = state["version"]
    assert ("members" in state) == ("written_by" in state) == (number == 2)
    return number


def upgrade(home: Deployment) -> subprocess.CompletedProcess[str]:
    return home.cli("self-upgrade", timeout=180)


def test_upgrades_and_downgrades_cost_no_request(home: Deployment) -> None:
    # Mutations, each seen red: TCP sockets not passed on (src/run/upgrade.rs); the router killed
    # and not retired (src/run/adopt.rs). In both cases the poll is broken off.
    assert home.process
    user = home.client().register(f"user-{uuid.uuid4().hex[:8]}", "a password")
    room = user.create_room()
    assert version(home) == 1
    with Traffic(home.port) as traffic:
        traffic.breathe()
        for number in range(UPGRADES):
            traffic.phase(f"upgrade {number}")
            program, wanted = (NEXT, 2) if number % 2 == 0 else (BINARY, 1)
            poll = Poll(home, user)
            before = home.pids()
            install(home, program)
            done = upgrade(home)
            assert done.returncode == 0, done
            assert "has taken over from" in done.stdout
            home.wait_ready()
            after = home.pids()
            assert {unit for unit in before if before[unit] != after[unit]} == OWN
            status = home.status()
            assert status
            assert (status["pid"], status["takeovers"]) == (home.process.pid, number + 1)
            assert version(home) == wanted
            # Whoever waited all the time is answered, by the router that it had asked.
            text = f"after upgrade {number}"
            user.send(room, text)
            response, body = poll.answer()
            assert response.status == 200
            assert text in body
            traffic.breathe()
        report = traffic.stop()
    print(f"{UPGRADES} self-upgrades: {report['failed']} of {report['requests']} requests failed")
    nothing_failed(report)


def test_what_cannot_take_over_is_refused_before_anything_is_given_up(home: Deployment) -> None:
    # Mutations, each seen red (the supervisor becomes the script): the answer of the new program not looked
    # at; its exit code not looked at.
    install(home, BINARY)
    before, running = home.pids(), home.status()
    assert running
    programs = {
        "#!/bin/sh\necho nonsense; exit 1\n": "nonsense",
        # Its last word is a version, and yet it has failed.
        "#!/bin/sh\necho 1; exit 1\n": "cannot take over",
        # It can read only what we cannot write.
        "#!/bin/sh\necho 99\n": "cannot take over",
        "not a program": "cannot be asked whether it can take over",
    }
    try:
        for text, said in programs.items():
            broken = home.directory / "broken"
            broken.write_text(text, encoding="utf-8")
            broken.chmod(0o755)
            install(home, broken)
            done = subprocess.run(
                [str(BINARY), "self-upgrade", "--config", str(home.toml)],
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 1, done
            assert "nothing was changed" in done.stderr
            assert said in done.stderr
    finally:
        install(home, BINARY)
    assert home.pids() == before
    # The state of a version that does not exist.
    state = json.loads((home.run / "state.json").read_text(encoding="utf-8"))
    offers = home.directory / "offers.json"
    offers.write_text(json.dumps({**state, "version": 99}), encoding="utf-8")
    done = home.cli("supervise", f"--upgrade-check={offers}")
    assert done.returncode == 1
    assert "it is of version 99, and this synvisor knows 1" in done.stderr
    status = home.status()
    assert status
    assert (status["pid"], status["takeovers"]) == (running["pid"], running["takeovers"])


def test_an_upgrade_waits_for_nobody_and_interrupts_nothing(home: Deployment) -> None:
    # Mutation: orders under way not looked at: seen red (the order is broken off).
    order = subprocess.Popen(home.command("restart", "--all"), stdout=subprocess.PIPE, text=True)
    try:
        wait_for("the order", lambda: (home.unit("generic-1")["state"] != "ready") or None)
        done = upgrade(home)
        assert done.returncode == 75, done
        assert "an order is being carried out" in done.stderr
    finally:
        assert order.wait(timeout=180) == 0
    assert upgrade(home).returncode == 0
    home.wait_ready()


def test_commands_of_another_version_are_understood(home: Deployment) -> None:
    old, new = BINARY, NEXT
    for program, cli in ((old, new), (new, old)):
        install(home, program)
        assert upgrade(home).returncode == 0
        home.wait_ready()
        for verb in ("status", "plan", "generations", "version"):
            done = subprocess.run(
                [str(cli), verb, "--config", str(home.toml)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done
