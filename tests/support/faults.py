"""What the chaos test does to a homeserver, and which requests each of these things may cost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .census import named
from .deployment import Deployment, over_unix_socket

# Units that are not processes of Synapse.
OTHERS = ("postgres", "redis", "forkserver", "router")
# No order takes longer, in seconds: all units in turn, on a machine that does more besides.
PATIENCE = 300

# What the router says for a process that is gone (src/router).
ENDED = "The homeserver process that had this request ended before it answered"

# A request of the load as its record has it (ledger.py, Request).
Failure = dict[str, Any]
Excuse = Callable[[Failure], bool]


class World:
    """The homeserver as the faults see it, and what they leave for the report."""

    def __init__(self, home: Deployment) -> None:
        self.home = home
        self.workers, self.extra, self.synapse = home.workers, home.extra, home.synapse
        # What orders said that they did to requests: replayed, taken_back, cut, parked.
        self.counts: Counter[str] = Counter()
        # Orders that did not succeed, since something else happened at the same time.
        self.unsuccessful: Counter[str] = Counter()
        self.broken: list[str] = []
        # Whether more than one thing happens at present.
        self.several = False

    def status(self) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            status, body = over_unix_socket(self.home.run / "control.sock", "GET", "/v1/status")
            if status == 200:
                answer: dict[str, Any] = json.loads(body)
                return answer
        return None

    def pids(self) -> dict[str, int | None]:
        status = self.status()
        return {unit["name"]: unit["pid"] for unit in status["units"]} if status else {}

    def pid(self, unit: str) -> int | None:
        """The process of a unit, also while there is no supervisor to ask."""
        if pid := self.pids().get(unit):
            return pid
        return next((process.pid for process in named(self.home).get(unit, [])), None)

    def synapse_units(self) -> list[str]:
        return sorted((self.pids().keys() | named(self.home).keys()) - set(OTHERS))

    def write(self, workers: str = "", extra: str = "", synapse: str = "") -> None:
        """Writes the TOML with some lines more than usual, or as usual."""
        self.home.workers = f"{self.workers}\n{workers}"
        self.home.extra = f"{self.extra}\n{extra}"
        self.home.synapse = f"{synapse}\n{self.synapse}"
        self.home.write()


@dataclass
class Trouble:
    """A fault that was begun."""

    what: str
    # Waits until what was ordered is done.
    finish: Callable[[], None] = lambda: None
    # Whether it has come to pass and is over, as far as that is not to be seen by everything being READY.
    over: Callable[[], bool] = lambda: True
    # What is to be done once everything is READY again, with what has to hold then.
    after: Callable[[], None] = lambda: None


# Begins it; randomness is the fault's own, so that a seed repeats it whatever the others did.
Begin = Callable[[World, random.Random], Trouble]


@dataclass(frozen=True)
class Fault:
    name: str
    begin: Begin
    may_cost: Excuse


# What may be lost -------------------------------------------------------------------------------------------


def nothing(_: Failure) -> bool:
    return False


def broken_off(failure: Failure) -> bool:
    """The connection ended before or in the middle of the answer; nobody was refused."""
    return failure["status"] is None and "Connect call failed" not in failure["error"]


def in_flight_in_synapse(failure: Failure) -> bool:
    """What changes something and was with a process that is no more, or waited for its answer elsewhere."""
    if failure["method"] != "GET":
        return broken_off(failure) or failure["status"] == 502
    # Of an answer that had begun the rest cannot be had from another process.
    return failure["status"] in (None, 200) and "PayloadError" in failure["error"]


def without_its_services(failure: Failure) -> bool:
    """Synapse's own word that it could not; no process ends for it."""
    return (failure["status"] or 0) >= 500 and ENDED not in failure["error"]


# What is done -----------------------------------------------------------------------------------------------


def ordered(world: World, *arguments: str, alone: bool = False) -> Trouble:
    """An order by the command line; it must succeed, unless something else happened meanwhile."""
    what = " ".join(arguments)
    command = world.home.command(*arguments)
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)

    def finish() -> None:
        try:
            out, errors = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            world.broken.append(f"`synvisor {what}` did not end within {PATIENCE} s")
            return
        if process.returncode != 0:
            said = f"`synvisor {what}` exited with {process.returncode}: {(errors or out).strip()[-500:]}"
            if world.several and not alone:
                world.unsuccessful[what] += 1
            else:
                world.broken.append(said)
        elif "--json" in arguments:
            for unit in json.loads(out)["units"]:
                world.counts.update({key: unit[key] for key in ("parked", "replayed", "taken_back", "cut")})

    return Trouble(what.removesuffix(" --json"), finish)


def replaced(world: World, unit: str, what: str, number: signal.Signals) -> Trouble:
    """A signal after which another process has to take its place."""
    old = world.pid(unit)
    if old is None:
        # Something else has it down at this moment.
        return Trouble(f"{what} {unit}, which was down")
    with contextlib.suppress(ProcessLookupError):
        os.kill(old, number)
    return Trouble(f"{what} {unit}", over=lambda: world.pids().get(unit) not in (None, old))


def killed(world: World, unit: str) -> Trouble:
    return replaced(world, unit, "kill", signal.SIGKILL)


def one_of_synapse(world: World, dice: random.Random) -> str:
    return dice.choice(world.synapse_units() or ["main"])


def a_worker(world: World, dice: random.Random) -> str:
    return dice.choice([unit for unit in world.synapse_units() if unit != "main"] or ["main"])


def without_database(world: World, trouble: Trouble) -> Trouble:
    """What makes the database go away for a moment, and gets rid of its traces in Synapse at the end.

    A connection of before fails the first request that it is used for, whenever that is: Synapse asks
    psycopg2 whether it is closed, which knows after a query only (storage/database.py, runWithConnection).
    """

    def after() -> None:
        ordered(world, "restart", "--all", "--at-once", "--json", alone=True).finish()

    return replace(trouble, after=after)


def kill_supervisor(world: World, _: random.Random) -> Trouble:
    before = world.pids()
    world.home.kill()
    # As systemd does.
    world.home.start()

    def after() -> None:
        # After an adoption another fork server replaces the old one.
        now = world.pids()
        others = {unit: pid for unit, pid in before.items() if unit != "forkserver"}
        if not world.several and (changed := {unit for unit in others if now.get(unit) != others[unit]}):
            world.broken.append(f"the supervisor's death cost other processes: {', '.join(sorted(changed))}")

    return Trouble("kill supervisor", over=lambda: world.status() is not None, after=after)


def upgrade(world: World, _: random.Random) -> Trouble:
    before = world.pids()
    assert world.home.process
    pid = world.home.process.pid
    trouble = ordered(world, "self-upgrade")

    def after() -> None:
        status, now = world.status(), world.pids()
        if status and status["pid"] != pid:
            world.broken.append(f"self-upgrade changed the supervisor's pid from {pid} to {status['pid']}")
        synapse = {unit: was for unit, was in before.items() if unit not in ("forkserver", "router")}
        if not world.several and (changed := {unit for unit in synapse if now.get(unit) != synapse[unit]}):
            world.broken.append(f"self-upgrade cost other processes: {', '.join(sorted(changed))}")

    return Trouble(trouble.what, trouble.finish, after=after)


def paused(world: World, dice: random.Random) -> Trouble:
    """SIGSTOP, and SIGCONT before anybody may call the process stuck."""
    unit, seconds = one_of_synapse(world, dice), dice.uniform(0.3, 2.0)
    pid = world.pid(unit)
    if pid is None:
        return Trouble(f"pause {unit}, which was down")

    def signalled(which: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, which)

    signalled(signal.SIGSTOP)
    timer = threading.Timer(seconds, signalled, [signal.SIGCONT])
    timer.start()

    def after() -> None:
        if not world.several and world.pids().get(unit) != pid:
            world.broken.append(f"{unit} was replaced although it slept for {seconds:.1f} s only")

    return Trouble(f"pause {unit}", timer.join, after=after)


def frozen(world: World, dice: random.Random) -> Trouble:
    """SIGSTOP for good: it is for synvisor to notice."""
    unit = dice.choice([*world.synapse_units(), "router"])
    return replaced(world, unit, "freeze", signal.SIGSTOP)


# Lines for [workers], [supervisor] and below it, and [synapse]: nobody, one more, some together, all in turn.
EDITS = [
    {"extra": '[units.typing-1]\nlog_level = "DEBUG"'},
    {"workers": "generic = 2"},
    {"workers": "federation_sender = 2"},
    {"extra": "[units.generic-1.environment]\nA = 'b'"},
    {"synapse": "turn_allow_guests = false"},
]


def reloaded(world: World, dice: random.Random) -> Trouble:
    edit = dice.choice(EDITS)
    world.write(**edit)
    trouble = ordered(world, "reload")

    def after() -> None:
        world.write()
        ordered(world, "reload", alone=True).finish()

    ((_, lines),) = edit.items()
    return Trouble(f"reload with {lines.splitlines()[-1]}", trouble.finish, after=after)


FAULTS = {
    fault.name: fault
    for fault in [
        Fault("kill worker", lambda world, dice: killed(world, a_worker(world, dice)), in_flight_in_synapse),
        Fault("kill main", lambda world, _: killed(world, "main"), in_flight_in_synapse),
        Fault("kill fork server", lambda world, _: killed(world, "forkserver"), nothing),
        Fault("kill router", lambda world, _: killed(world, "router"), broken_off),
        Fault("kill supervisor", kill_supervisor, nothing),
        Fault("pause", paused, nothing),
        Fault("freeze", frozen, in_flight_in_synapse),
        Fault(
            "kill database",
            lambda world, _: without_database(world, killed(world, "postgres")),
            without_its_services,
        ),
        Fault(
            "restart database",
            lambda world, _: without_database(world, ordered(world, "restart", "postgres", "--json")),
            without_its_services,
        ),
        Fault("kill Redis", lambda world, _: killed(world, "redis"), without_its_services),
        Fault(
            "restart Redis",
            lambda world, _: ordered(world, "restart", "redis", "--json"),
            without_its_services,
        ),
        Fault("reload", reloaded, nothing),
        Fault(
            "restart one",
            lambda world, dice: ordered(world, "restart", one_of_synapse(world, dice), "--json"),
            nothing,
        ),
        Fault("restart router", lambda world, _: ordered(world, "restart", "router", "--json"), nothing),
        Fault("restart rolling", lambda world, _: ordered(world, "restart", "--all", "--json"), nothing),
        Fault(
            "restart at once",
            lambda world, _: ordered(world, "restart", "--all", "--at-once", "--json"),
            nothing,
        ),
        Fault("self-upgrade", upgrade, nothing),
    ]
}
