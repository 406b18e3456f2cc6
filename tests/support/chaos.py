"""Random faults, one after the other, under the load of Matrix clients on a real homeserver.

    target/venv/bin/python -m tests.support.chaos --minutes 10 [--seed N] [--fault NAME]…

Prints its seed first; SEED=N or --seed N does the same faults again. Exits with 1 if an invariant is broken:
an accepted message is lost or doubled; two processes of one name live at the same time; not everything is
READY again; a request failed that no fault excuses (faults.py); a process, a descriptor or a file is left
over; the supervisor's memory grows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from .census import Watch, differences, files, opened, private_memory, settled
from .deployment import LIVELY, Deployment
from .faults import FAULTS, Failure, Fault, Trouble, World
from .orphans import adopting, end_holders
from .toolchain import work_directory
from .traffic import UNLIMITED, Report, Traffic

# Until everything is READY again, and until everything succeeds again; only there to end at all.
READY_WITHIN, SERVED_WITHIN = 180.0, 300.0
LOOK = 0.05
# Of the supervisor: a pause is shorter than what makes a process count as stuck, and a process that is well
# answers sooner even on a busy machine.
TIMES = 'stop_timeout = "10s"\nhealth_timeout = "5s"'
# How often two faults come at once, and how often the next comes before the last is over.
PAIRS, HASTE = 0.15, 0.2
# What the supervisor may have grown by, in KiB: allocators settle far below.
GROWTH = 8_192
# A worker opens connections to PostgreSQL as it needs them (cp_max), so that these are not counted.
FREE = {"worker": frozenset({"socket"})}


@dataclass(frozen=True)
class Step:
    """One or two faults, each with the seed of its own choices."""

    faults: tuple[tuple[Fault, int], ...]
    # Whether to wait until all is well before the next one.
    patient: bool


def steps(dice: random.Random, faults: list[Fault], *, hasty: bool) -> Iterator[Step]:
    """Endless; each kind comes once before any comes again."""

    def endless() -> Iterator[Fault]:
        while True:
            yield from dice.sample(faults, len(faults))

    kinds = endless()
    while True:
        several = 2 if dice.random() < PAIRS else 1
        chosen = tuple((next(kinds), dice.randrange(2**32)) for _ in range(several))
        yield Step(chosen, not (hasty and dice.random() < HASTE))


@dataclass
class Ordeal:
    """What happened, as it is reported."""

    # What may excuse a failure, by the number that begins the load's phase; calm excuses nothing.
    phases: dict[int, list[Fault]] = field(default_factory=dict)
    told: dict[int, str] = field(default_factory=dict)
    begun: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: list[int] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class Broken(Exception):
    """It makes no sense to go on."""


# Who asks meanwhile, where there is time.
MANY = ("--users=24", "--rooms=6", "--rate=6")


class Chaos:
    """One homeserver, and everything that befalls it."""

    def __init__(self, home: Deployment, record: Path, load: tuple[str, ...] = ()) -> None:
        self.home, self.record, self.load = home, record, load
        self.world = World(home)
        self.ordeal = Ordeal()
        self.serial = itertools.count(1)
        # What was begun and not waited for.
        self.pending: list[tuple[Fault, Trouble]] = []

    # Waiting ------------------------------------------------------------------------------------------------

    def wait(self, what: str, is_so: Callable[[], bool], seconds: float = READY_WITHIN) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert self.home.process
            if (code := self.home.process.poll()) is not None:
                raise Broken(f"the supervisor ended with {code} ({what}):\n{self.home.tail()}")
            if time.monotonic() > deadline:
                table = self.home.cli("status")
                raise Broken(
                    f"{what}: not within {seconds:.0f} s\n{table.stdout}{table.stderr}{self.home.tail()}"
                )
            time.sleep(LOOK)

    def all_ready(self) -> bool:
        status = self.world.status()
        return status is not None and status["state"] == "ready"

    def served(self, traffic: Traffic, what: str) -> None:
        """Waits until each kind of request succeeds again."""
        alarm = threading.Timer(SERVED_WITHIN, traffic.process.kill)
        alarm.start()
        try:
            traffic.breathe()
        except (AssertionError, BrokenPipeError) as error:
            raise Broken(
                f"{what}: clients were not served again within {SERVED_WITHIN:.0f} s ({error})"
            ) from None
        finally:
            alarm.cancel()

    # Doing --------------------------------------------------------------------------------------------------

    def phase(self, traffic: Traffic, name: str, faults: list[Fault]) -> int:
        number = next(self.serial)
        self.ordeal.phases[number], self.ordeal.told[number] = faults, name
        traffic.phase(f"{number} {name}")
        return number

    def step(self, traffic: Traffic, step: Step) -> None:
        faults = [fault for fault, _ in step.faults]
        name = " and ".join(fault.name for fault in faults)
        # What is not over yet may cost requests still.
        number = self.phase(traffic, name, [fault for fault, _ in self.pending] + faults)
        begun = time.monotonic()
        self.world.several = len(faults) > 1 or bool(self.pending)
        troubles: list[Trouble] = []
        for fault, seed in step.faults:
            troubles.append(fault.begin(self.world, random.Random(seed)))
            self.ordeal.begun[fault.name] += 1
        what = self.ordeal.told[number] = " and ".join(trouble.what for trouble in troubles)
        for trouble in troubles:
            trouble.finish()
        self.pending += zip(faults, troubles, strict=True)
        if not step.patient:
            say(f"{number:4}  {what}: not waited for")
            return
        self.wait(what, lambda: all(trouble.over() for _, trouble in self.pending) and self.all_ready())
        took = time.monotonic() - begun
        self.ordeal.recoveries["several" if self.world.several else name].append(took)
        say(f"{number:4}  {what}: {took:.1f} s")
        for _, trouble in self.pending:
            trouble.after()
        self.pending.clear()
        self.wait(f"after {what}", self.all_ready)
        self.served(traffic, what)
        self.phase(traffic, "calm", [])
        assert self.home.process
        self.ordeal.memory.append(private_memory(self.home.process.pid))

    # Before and after ---------------------------------------------------------------------------------------

    def fresh(self) -> None:
        """The same state before and after: nobody has connections that are left from the load."""
        done = self.home.cli("restart", "--all", "--at-once", timeout=300)
        if done.returncode != 0:
            raise Broken(f"restart --all --at-once: {done.stderr or done.stdout}")
        self.wait("everything READY without load", self.all_ready)

    def watched(self) -> dict[str, int]:
        assert self.home.process
        units = {"worker": "generic-1", "router": "router", "fork server": "forkserver"}
        pids = {name: self.world.pids()[unit] for name, unit in units.items()}
        return {"supervisor": self.home.process.pid, **{name: pid for name, pid in pids.items() if pid}}

    def census(self) -> tuple[dict[str, Counter[str]], Counter[str]]:
        return {name: opened(pid) for name, pid in self.watched().items()}, files(self.home)

    def leaks(self, before: tuple[dict[str, Counter[str]], Counter[str]]) -> list[str]:
        descriptors, paths = self.census()
        found = [
            f"descriptors of the {name}: {difference}"
            for name in before[0]
            for difference in differences(
                before[0][name], descriptors.get(name, Counter()), FREE.get(name, frozenset())
            )
        ]
        return found + [f"files: {difference}" for difference in differences(before[1], paths)]

    # The whole ----------------------------------------------------------------------------------------------

    def run(self, sequence: Iterator[Step], again: Callable[[], bool], seed: int) -> Report:
        """Does the steps while `again` says so; what was broken is in the ordeal."""
        report: Report = {}
        watch = Watch(self.home)
        try:
            self.home.start().wait_ready()
            self.fresh()
            before = self.census()
            watch.start()
            options = ("--seed", str(seed), "--record", str(self.record))
            with Traffic(
                self.home.port, *self.load, *options, log=self.record.with_suffix(".log")
            ) as traffic:
                self.served(traffic, "the start")
                self.phase(traffic, "calm", [])
                while again() or self.pending:
                    step = next(sequence)
                    self.step(traffic, step if again() else replace(step, patient=True))
                report = traffic.stop()
            self.ordeal.broken += report["lost"] + report["doubled"]
            self.fresh()
            self.ordeal.broken += settled(lambda: self.leaks(before))
        except Broken as error:
            self.ordeal.broken.append(str(error))
        finally:
            if watch.is_alive():
                watch.stop()
            self.ordeal.broken += self.world.broken + sorted(watch.found)
            self.ordeal.broken += self.stop()
        self.ordeal.broken += grown(self.ordeal.memory)
        return report

    def stop(self) -> list[str]:
        """Stops it all; what is left then is a leak."""
        broken = []
        if "panicked" in self.home.tail(10**9):
            broken.append(f"the supervisor panicked:\n{self.home.tail()}")
        try:
            self.home.stop()
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            broken.append(f"stop: {error}")
            end_holders(self.home.state)
            self.home.process = None
        return broken


def grown(memory: list[int]) -> list[str]:
    """Whether the supervisor's memory went on growing; what is allocated once is there early."""
    quarter = len(memory) // 4
    if quarter < 2:
        return []
    early, late = max(memory[: 2 * quarter]), max(memory[-quarter:])
    return [f"the supervisor grew from {early} to {late} KiB"] if late > early + GROWTH else []


def judged(record: Path, ordeal: Ordeal) -> tuple[Counter[str], list[str]]:
    """Failures by what excuses them and class of request; and those that nothing excuses, a sentence each."""
    excused: Counter[str] = Counter()
    inexcusable: list[str] = []
    for line in record.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            # The load was ended while it wrote.
            break
        request: Failure = json.loads(line)
        if request["error"] is None:
            continue
        first, last = (
            int(phase.partition(" ")[0]) if phase[0].isdigit() else 0 for phase in request["phases"]
        )
        meanwhile = [fault for number in range(first, last + 1) for fault in ordeal.phases.get(number, [])]
        what = f"{request['operation']} {request['method']} {request['status']}"
        if by := next((fault for fault in reversed(meanwhile) if fault.may_cost(request)), None):
            excused[f"{by.name}: {what}"] += 1
            continue
        told = ", ".join(ordeal.told.get(number, "start") for number in range(first, last + 1))
        took = request["ended"] - request["started"]
        inexcusable.append(f"{what} failed after {took:.1f} s during {told}: {request['error']}")
    return excused, inexcusable


def say(line: str) -> None:
    print(line, flush=True)


def show(ordeal: Ordeal, world: World, report: Report, excused: Counter[str]) -> None:
    say(f"\n{sum(ordeal.begun.values())} faults; seconds until all was READY again: min, median, max")
    for name, took in sorted(ordeal.recoveries.items()):
        times = f"{min(took):6.1f} {statistics.median(took):6.1f} {max(took):6.1f}"
        say(f"  {name:18} {ordeal.begun.get(name, len(took)):4}  {times}")
    if report:
        requests, failed, accepted = report["requests"], report["failed"], report["accepted"]
        say(f"{requests} requests, {failed} failed; {accepted} messages accepted")
    for what, number in sorted(excused.items()):
        say(f"  {number:4}  {what}")
    say(f"requests that restarts met: {dict(world.counts)}")
    for what, number in world.unsuccessful.items():
        say(f"  {number} time(s) without success, as something else happened at once: {what}")
    if ordeal.memory:
        say(f"memory of the supervisor: {ordeal.memory[0]} KiB at first, {ordeal.memory[-1]} KiB at last")


def endure(seed: int, minutes: float | None = None, names: list[str] | None = None) -> list[str]:
    """Everything, with a report on standard output; gives what was broken.

    Without a time each kind of fault comes once, and the next one when the last is over.
    """
    say(f"SEED={seed}")
    record = work_directory() / "chaos" / f"{seed}-{os.getpid()}.jsonl"
    record.parent.mkdir(parents=True, exist_ok=True)
    home = Deployment('preset = "one-of-each"', synapse=UNLIMITED + LIVELY, extra=TIMES)
    with adopting():
        try:
            chaos = Chaos(home, record, () if minutes is None else MANY)
            faults = [FAULTS[name] for name in names or FAULTS]
            sequence = steps(random.Random(seed), faults, hasty=minutes is not None)
            end = None if minutes is None else time.monotonic() + minutes * 60

            def again() -> bool:
                return len(chaos.ordeal.begun) < len(faults) if end is None else time.monotonic() < end

            report = chaos.run(sequence, again, seed)
            excused, inexcusable = judged(record, chaos.ordeal)
            show(chaos.ordeal, chaos.world, report, excused)
            return chaos.ordeal.broken + inexcusable
        finally:
            home.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED") or random.randrange(2**32)))
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only this one (may be repeated)")
    arguments = parser.parse_args()
    broken = endure(arguments.seed, arguments.minutes, arguments.fault)
    for what in broken:
        say(f"BROKEN: {what}")
    say(f"{len(broken)} invariants broken" if broken else "no invariant was broken")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
