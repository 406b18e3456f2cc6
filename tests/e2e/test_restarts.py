"""Under a load of Matrix clients, no restart costs a request, and no crash costs what was accepted."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.deployment import LIVELY, Deployment, deployed
from tests.support.naps import CALLED, CALLER, NAPS, Caller, asleep
from tests.support.traffic import UNLIMITED, Report, Traffic

from .test_crash import wait_for_another

# Each test restarts seventeen processes several times, on machines that do more besides.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.busy]

# Not Synapse: a query that PostgreSQL was executing is lost with it.
OTHERS = ("postgres", "redis", "forkserver", "router")


@pytest.fixture(scope="module")
def home() -> Iterator[Deployment]:
    with deployed('preset = "one-of-each"', synapse=UNLIMITED + LIVELY) as deployment:
        yield deployment


def synapse_units(home: Deployment) -> list[str]:
    return [unit for unit in home.pids() if unit not in OTHERS]


def restart(home: Deployment, *arguments: str) -> list[dict[str, Any]]:
    """The summaries of an order that was carried out."""
    done = home.cli("restart", "--json", *arguments, timeout=300)
    assert done.returncode == 0, done
    answer = json.loads(done.stdout)
    assert answer["ok"], answer
    units: list[dict[str, Any]] = answer["units"]
    assert not [unit for unit in units if unit["cut"]], units
    return units


def shown(report: Report) -> str:
    """The report as a failing test prints it: what went wrong first."""
    return json.dumps(report, indent=1)


def nothing_lost(report: Report) -> None:
    assert not report["lost"], shown(report)
    assert not report["doubled"], shown(report)
    assert report["accepted"] > 0
    assert report["to_device_accepted"] > 0


def nothing_failed(report: Report) -> None:
    assert report["failed"] == 0, shown(report)
    nothing_lost(report)
    assert report["unanswered"] == report["to_device_unanswered"] == 0, shown(report)


def test_planned_restarts_cost_no_request(home: Deployment) -> None:
    units = synapse_units(home)
    before = home.pids()
    with Traffic(home.port, "--users=24", "--rooms=6", "--rate=6") as traffic:
        traffic.breathe()
        for unit in units:
            traffic.phase(f"restart {unit}")
            assert [one["unit"] for one in restart(home, unit)] == [unit]
        traffic.breathe()
        for how in (["--all"], ["--all", "--at-once"]):
            traffic.phase(f"restart {' '.join(how)}")
            assert sorted(one["unit"] for one in restart(home, *how)) == sorted(units)
            traffic.breathe()
        report = traffic.stop()
    assert report["users"] >= 20
    assert report["rooms"] >= 5
    nothing_failed(report)
    after = home.pids()
    assert {unit for unit in before if before[unit] == after[unit]} == set(OTHERS)


def test_a_caller_that_sleeps_meanwhile_costs_no_request(home: Deployment) -> None:
    # Mutation: the pool of connections between processes left persistent (`without=("pool",)`): seen red.
    user = home.client().register(f"sleeper-{uuid.uuid4().hex[:8]}", "a password")
    caller = Caller(home, user, user.create_room())
    with Traffic(home.port) as traffic:
        traffic.breathe()
        for _ in range(NAPS):
            # Whoever keeps connections has an idle one now.
            caller.ask()
            assert caller.answer() == 200
            with asleep(home, CALLER):
                caller.ask()
                restart(home, CALLED)
            assert caller.answer() == 200
            traffic.breathe()
        report = traffic.stop()
    assert report["failed"] == 0, shown(report)
    nothing_lost(report)


def test_a_crash_costs_nothing_that_was_accepted(home: Deployment) -> None:
    with Traffic(home.port) as traffic:
        traffic.breathe()
        for unit in synapse_units(home):
            pid = home.pids()[unit]
            assert pid
            traffic.phase(f"kill {unit}")
            os.kill(pid, signal.SIGKILL)
            wait_for_another(home, unit, pid)
            traffic.breathe()
        home.wait_ready()
        report = traffic.stop()
    nothing_lost(report)
    failed = Counter(f"{one['operation']} {one['status']}" for one in report["failures"])
    print(
        f"SIGKILL of every unit: {report['failed']} of {report['requests']} requests failed: {dict(failed)}"
    )
    # What only reads is asked again by the router; a write may be done already.
    assert not [one for one in report["failures"] if one["method"] == "GET"], shown(report)
