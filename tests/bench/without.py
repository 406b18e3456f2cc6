"""What each mechanism of a gentle restart is for: the load test with it, and without it.

    target/venv/bin/python -m tests.bench.without [--mechanism MECHANISM]…

Run by hand: it takes minutes for each, and to fail is what it is for. Requests and failures on the two busy
cores of a developer's machine, 28 restarts each:

    nothing    5,018 requests, 0 failed
    router     2,940 requests, 211 failed (429, a connection refused; at the ordinary weights)
    child      4,993 requests, 4 failed (502, rooms that were being made)
    bootstrap  6,871 requests, 14 failed (502, likewise): neither the child's part nor the pool's
    pool       5,602 requests, 0 failed: since the child closes idle connections with care, it takes a caller
               that does not get to run meanwhile (tests/support/naps.py); with one 2 of 5,309 failed (502)
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass

from tests.support.deployment import LIVELY, deployed
from tests.support.toolchain import ROOT
from tests.support.traffic import UNLIMITED, Traffic

# Nothing left out, then each of what `supervise --without` can leave out.
MECHANISMS = ["", "router", "child", "pool", "forkserver", "bootstrap"]
# The processes that the most requests of others wait for, again and again, then everything.
ORDERS = [
    *([unit] for unit in ("events-1", "main", "to-device-1", "media-repository-1", "generic-1")),
    *[["events-1"]] * 8,
    ["--all", "--at-once"],
]
# Rooms are made by many calls between processes.
LOAD = ("--users", "24", "--rooms", "6", "--rate", "16", "--weight", "room_create=8")


@dataclass(frozen=True)
class Harm:
    """What a client would have noticed."""

    requests: int
    failed: int
    lost: int
    doubled: int
    cut: int
    # How often by operation and status.
    failures: dict[str, int]


def harm_without(mechanism: str, times: int) -> Harm:
    without = (mechanism,) if mechanism else ()
    cut = 0
    record = ROOT / "target" / "bench" / f"without-{mechanism or 'nothing'}.jsonl"
    record.parent.mkdir(parents=True, exist_ok=True)
    with (
        deployed('preset = "one-of-each"', synapse=UNLIMITED + LIVELY, without=without) as home,
        Traffic(home.port, "--record", str(record), *LOAD) as traffic,
    ):
        traffic.breathe()
        for order in ORDERS * times:
            traffic.phase(" ".join(order))
            done = home.cli("restart", "--json", *order, timeout=300)
            cut += sum(unit["cut"] for unit in json.loads(done.stdout)["units"])
            traffic.breathe()
        report = traffic.stop()
    failures = Counter(f"{one['operation']} {one['status']}" for one in report["failures"])
    lost, doubled = len(report["lost"]), len(report["doubled"])
    return Harm(report["requests"], report["failed"], lost, doubled, cut, dict(failures))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.without")
    parser.add_argument("--mechanism", action="append", choices=MECHANISMS, help="only without this one (…)")
    parser.add_argument("--times", type=int, default=2, help="how often everything is restarted")
    arguments = parser.parse_args()
    for mechanism in arguments.mechanism or MECHANISMS:
        print(f"without {mechanism or 'nothing'}: {harm_without(mechanism, arguments.times)}", flush=True)


if __name__ == "__main__":
    main()
