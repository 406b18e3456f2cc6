"""`make bench`: synvisor against a shell loop and against supervisord, on the same files, in turns.

Every side has a database with its schema in place and a Redis of its own, which are not measured. The medians
are written to target/bench/restart.json; each round is printed, since no machine is quiet.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from tests.support.toolchain import prepare

from .rows import save
from .services import Services
from .sides import BASELINES, Side, Synvisor

# Workers of each set-up, and how many rounds tell enough: one of the large one takes minutes.
SETUPS = {"one-of-each": ('preset = "one-of-each"', 3), "generic-50": ("generic = 50", 1)}
# The unit of every metric.
METRICS = {
    "cold_start": "s",
    "restart_all_at_once": "s",
    "single_restart": "s",
    "crash_to_ready": "s",
    "memory_pss": "MiB",
    "supervisor_rss": "MiB",
    "router_rss": "MiB",
}
# Whom the metrics of one process are of: there is one in every set-up.
ONE = "generic-1"
# A process is quick to restart, so that one time says little.
REPEAT = 3
# Garbage collection and first housekeeping come after READY; then memory is compared.
SETTLE = 5.0

Results = dict[str, list[float]]


class Clock:
    """Adds the seconds that something took to the results, if they are wanted."""

    def __init__(self, wanted: set[str]) -> None:
        self.wanted = wanted
        self.results: Results = defaultdict(list)

    def measure(self, metric: str, call: Any, *arguments: Any) -> None:
        if metric in self.wanted or metric == "cold_start":
            begun = time.monotonic()
            call(*arguments)
            self.results[metric].append(time.monotonic() - begun)


def one_round(side: Side, wanted: set[str]) -> Results:
    clock = Clock(wanted)
    clock.measure("cold_start", side.start)
    time.sleep(SETTLE)
    for metric, value in side.memory().items():
        clock.results[metric].append(value)
    for _ in range(REPEAT):
        clock.measure("single_restart", side.restart, [ONE])
        clock.measure("crash_to_ready", side.crash, ONE)
    clock.measure("restart_all_at_once", side.restart, sorted(side.pids()))
    side.stop()
    return {metric: values for metric, values in clock.results.items() if metric in wanted}


@contextlib.contextmanager
def sides(workers: str, baselines: list[str]) -> Iterator[list[Side]]:
    with contextlib.ExitStack() as stack:
        venv, made = prepare(), []
        for kind in (Synvisor, *(BASELINES[name] for name in baselines)):
            services = Services(venv)
            stack.callback(services.close)
            print(f"preparing the database of {kind.__name__.lower()}", flush=True)
            side = kind(services, workers)
            stack.callback(side.close)
            made.append(side)
        yield made


def rows(setup: str, measured: dict[str, Results], wanted: set[str]) -> list[dict[str, Any]]:
    """One row for each metric and baseline, of the medians."""
    medians = {
        name: {metric: statistics.median(values) for metric, values in results.items()}
        for name, results in measured.items()
    }
    ours = medians.pop("synvisor")
    found = []
    for metric in (metric for metric in METRICS if metric in wanted):
        for name, theirs in medians.items():
            value, other = ours[metric], theirs.get(metric)
            found.append(
                {
                    "metric": metric,
                    "unit": METRICS[metric],
                    "setup": setup,
                    "value": round(value, 3),
                    "baseline": name,
                    "baseline_value": None if other is None else round(other, 3),
                    "ratio": None if other is None else round(value / other, 3),
                }
            )
    return found


def run(setup: str, baselines: list[str], wanted: set[str], rounds: int | None) -> list[dict[str, Any]]:
    workers, usual = SETUPS[setup]
    measured: dict[str, Results] = defaultdict(lambda: defaultdict(list))
    with sides(workers, baselines) as contestants:
        for number in range(1, (rounds or usual) + 1):
            # Whoever comes later finds warmer caches: the order moves on.
            first = number % len(contestants)
            for side in contestants[first:] + contestants[:first]:
                results = one_round(side, wanted)
                for metric, values in results.items():
                    measured[side.name][metric] += values
                shown = ", ".join(f"{metric} {statistics.median(of):.2f}" for metric, of in results.items())
                print(f"{setup}, round {number}, {side.name}: {shown}", flush=True)
    return rows(setup, measured, wanted)


def show(found: list[dict[str, Any]]) -> None:
    head = ("metric", "unit", "setup", "synvisor", "baseline", "", "ratio")
    print("\n{:20} {:4} {:12} {:>9}  {:12} {:>9} {:>6}   (medians)".format(*head))
    for row in found:
        other, ratio = row["baseline_value"], row["ratio"]
        there = "-" if other is None else f"{other:.2f}"
        times = "-" if ratio is None else f"{ratio:.2f}"
        print(
            f"{row['metric']:20} {row['unit']:4} {row['setup']:12} {row['value']:9.2f}  "
            f"{row['baseline']:12} {there:>9} {times:>6}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--setup", action="append", choices=SETUPS, help="only this one (may be repeated)")
    parser.add_argument("--baseline", action="append", choices=BASELINES, help="only this one (…)")
    parser.add_argument("--metric", action="append", choices=METRICS, help="only this one (…)")
    parser.add_argument("--rounds", type=int, help="in place of what the set-up usually has")
    arguments = parser.parse_args()
    wanted = set(arguments.metric or METRICS)
    baselines = arguments.baseline or list(BASELINES)
    found: list[dict[str, Any]] = []
    for setup in arguments.setup or SETUPS:
        found += run(setup, baselines, wanted, arguments.rounds)
    show(found)
    save("restart.json", found)


if __name__ == "__main__":
    main()
