"""`systemctl reload`: done when it says so, refused with the reason, and never a failed request."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.deployment import wait_for
from tests.support.matrix import Client, quote

from .service import UNIT, Service


def reloaded(service: Service) -> None:
    """Has the TOML take effect; when `systemctl` returns, it has."""
    begun = time.monotonic()
    heard = len(service.notifications())
    service.write()
    service.systemctl("reload", UNIT)
    assert service.unready() == []
    settled(service, heard, begun)


def settled(service: Service, heard: int, begun: float, status: str = "last change: ") -> None:
    """The reload after the first `heard` notifications, which began after `begun`, is over for systemd."""
    assert service.state() == "active/running"
    start, end = service.notifications()[heard:]
    since = re.fullmatch(r"RELOADING=1, MONOTONIC_USEC=(\d+)", start)
    assert since, start
    assert begun <= int(since[1]) / 1e6 <= time.monotonic()
    assert end.startswith(f"READY=1, STATUS={status}"), end


def moved(before: dict[str, int | None], after: dict[str, int | None]) -> set[str]:
    """Units that have another process, or have come or gone."""
    return {unit for unit in before | after if before.get(unit) != after.get(unit)}


class Asking:
    """Users who ask one thing after the other, all the time, and tolerate no failure."""

    def __init__(self, port: int) -> None:
        self.port, self.failures, self.over = port, [], False
        self.answers = {"whoami": 0, "send": 0, "sync": 0}
        self.threads = [threading.Thread(target=self.ask, args=(what,)) for what in self.answers]
        for thread in self.threads:
            thread.start()

    def ask(self, what: str) -> None:
        try:
            user = Client(self.port).register(f"{what}-{uuid.uuid4().hex[:8]}", "a password")
            room = user.create_room()
            send = f"/_matrix/client/v3/rooms/{quote(room)}/send/m.room.message"
            while not self.over:
                if what == "whoami":
                    user.call("GET", "/_matrix/client/v3/account/whoami")
                elif what == "send":
                    user.call("PUT", f"{send}/{uuid.uuid4()}", {"msgtype": "m.text", "body": "hello"})
                else:
                    # Nothing comes, so that it waits in a process when that stops.
                    user.sync(timeout=1)
                self.answers[what] += 1
        except Exception as error:
            self.failures.append(f"{what}: {error!r}")

    def breathe(self) -> None:
        """Waits until everyone has had two more answers: to a question that began after this."""
        before = dict(self.answers)

        def answered() -> bool | None:
            assert not self.failures, self.failures
            return True if all(self.answers[what] > n + 1 for what, n in before.items()) else None

        wait_for("everybody is answered", answered)

    def __enter__(self) -> Asking:
        self.breathe()
        return self

    def __exit__(self, *_: object) -> None:
        self.over = True
        for thread in self.threads:
            thread.join()


EDITS = {
    "one more worker": ("generic = 3", "", {"generic-3"}),
    "a log level": ("generic = 3", '[units.generic-1]\nlog_level = "WARNING"', set()),
    "main restarts": ("generic = 3", "[units.main]\nsettings = { gc_thresholds = [700, 10, 10] }", {"main"}),
    "all as before": ("generic = 2", "", {"main", "generic-3"}),
}


def test_a_reload_is_done_when_systemctl_returns_and_fails_no_request(service: Service) -> None:
    # Mutation: an answer at once and no RELOADING=1, either of which systemd waits by: seen red.
    pids = service.pids()
    with Asking(service.port) as asking:
        for name, (workers, units, concerned) in EDITS.items():
            service.workers, service.units = workers, units
            reloaded(service)
            before, pids = pids, service.pids()
            assert moved(before, pids) == concerned, name
            asking.breathe()
    assert not asking.failures


@pytest.mark.parametrize(
    ("workers", "settings", "reason"),
    [
        ("genric = 3", "", "synvisor.toml:4:1: error: unknown key genric in [workers]"),
        ("generic = 2", "auto_join_rooms = ['not an alias']\n", "not an alias"),
    ],
    ids=["a mistake that we see", "a mistake that Synapse sees"],
)
def test_a_reload_that_is_refused_fails_and_changes_nothing(
    service: Service, workers: str, settings: str, reason: str
) -> None:
    # Mutations, each seen red: READY=1 not sent after a failure (src/run/reload.rs, `answer`); an ExecReload
    # that only sends SIGHUP; a status that is the message's first line alone (`gist`).
    before, begun, heard = service.pids(), time.monotonic(), len(service.notifications())
    service.workers, service.synapse = workers, settings + service.synapse
    service.write()
    done = service.machine.run("systemctl", "reload", UNIT, check=False)
    assert done.returncode != 0
    settled(service, heard, begun, status="last change failed: ")
    assert reason in service.notifications()[-1]
    shown = service.systemctl("status", "--full", UNIT)
    assert reason in next(line for line in shown.splitlines() if line.strip().startswith("Status: "))
    assert service.systemctl("is-active", UNIT) == "active\n"
    assert service.pids() == before


@contextmanager
def without_redis(service: Service) -> Iterator[None]:
    """Nobody can get ready meanwhile: a process is once it hears of the others' work."""
    pid = str(service.pids()["redis"])
    service.machine.run("kill", "-STOP", pid)
    try:
        yield
    finally:
        service.machine.run("kill", "-CONT", pid)


def under_way(service: Service) -> None:
    """A worker has been started that is not ready, and systemd knows that a reload is not over."""

    def starting() -> bool | None:
        units = {unit["name"]: unit["state"] for unit in service.status()["units"]}
        return True if units.get("generic-3") == "starting" else None

    wait_for("generic-3 starts", starting)
    # Newer ones have more than one kind of it.
    assert service.properties("ActiveState")["ActiveState"] == "reloading"


def test_systemctl_waits_for_a_slow_reload(service: Service) -> None:
    # Mutation: an answer at once and no RELOADING=1, either of which systemd waits by: seen red.
    begun, heard = time.monotonic(), len(service.notifications())
    service.workers = "generic = 3"
    service.write()
    with without_redis(service):
        reload = service.machine.start("systemctl", "reload", UNIT)
        under_way(service)
        assert reload.poll() is None
        # Whoever comes in between is told so.
        busy = service.machine.run("synvisor", "reload", check=False)
        assert busy.returncode == 75, busy
        assert len(service.notifications()) == heard + 1
    assert reload.wait(timeout=120) == 0, reload.communicate()
    assert service.unready() == []
    settled(service, heard, begun)


def test_sighup_reloads_and_systemd_sees_it(service: Service) -> None:
    # Mutation: RELOADING=1 not sent (src/run/reload.rs, `announce`): seen red.
    begun, heard = time.monotonic(), len(service.notifications())
    service.workers = "generic = 3"
    service.write()
    with without_redis(service):
        service.systemctl("kill", "--signal=HUP", "--kill-whom=main", UNIT)
        under_way(service)
    wait_for("the reload is over", lambda: True if service.state() == "active/running" else None)
    assert service.unready() == []
    settled(service, heard, begun)
