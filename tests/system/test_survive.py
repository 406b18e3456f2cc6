"""The supervisor dies, hangs or is replaced under systemd: the homeserver goes on, and a stop ends it all."""

from __future__ import annotations

import http.client
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.deployment import wait_for
from tests.support.matrix import Client

from .service import UNIT, Service

VERSIONS = "/_matrix/client/versions"
# How often the supervisor is killed under load.
KILLS = 10


class Talk:
    """A user who sends one message after the other, and somebody who asks for the versions in between."""

    def __init__(self, service: Service) -> None:
        self.user = Client(service.port).register(f"user-{uuid.uuid4().hex[:8]}", "a password")
        self.room = self.user.create_room()
        self.sent: list[str] = []
        self.failures: list[str] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.over.wait(0.02):
            text = f"message {len(self.sent)}"
            try:
                self.user.call("GET", VERSIONS)
                self.user.send(self.room, text)
                self.sent.append(text)
            except Exception as error:
                self.failures.append(repr(error))

    def goes_on(self) -> None:
        reached = len(self.sent) + 3
        wait_for("messages", lambda: True if len(self.sent) >= reached or self.failures else None)


@contextmanager
def talking(service: Service) -> Iterator[Talk]:
    talk = Talk(service)
    talk.thread.start()
    try:
        yield talk
    finally:
        talk.over.set()
        talk.thread.join()
    assert talk.failures == []
    assert talk.user.messages(talk.room) == talk.sent


def main_pid(service: Service) -> str:
    return service.properties("MainPID")["MainPID"]


def another_runs(service: Service, old: str) -> None:
    def there() -> bool | None:
        return True if service.state() == "active/running" and main_pid(service) not in ("0", old) else None

    wait_for("another supervisor", there)
    # Its socket is there before systemd hears that it is ready.
    service.wait_ready()


def kill(service: Service) -> str:
    """Gives the pid that it had."""
    pid = main_pid(service)
    service.machine.run("kill", "-KILL", pid)
    return pid


def left(service: Service) -> str:
    """Processes of the service, whoever looks after them."""
    users = "synvisor,synvisor-router"
    return service.machine.run("pgrep", "--list-full", "-u", users, check=False).stdout


def journal(service: Service) -> str:
    return service.machine.run("journalctl", "--no-pager", "--unit", UNIT, "--output=cat").stdout


def same_but_fork_server(before: dict[str, int | None], after: dict[str, int | None]) -> bool:
    return {unit for unit in before if before[unit] != after[unit]} <= {"forkserver"}


@contextmanager
def overridden(service: Service, *lines: str) -> Iterator[None]:
    """With other settings of the unit."""
    directory = service.machine.root / f"run/systemd/system/{UNIT}.d"
    directory.mkdir(parents=True)
    (directory / "test.conf").write_text("\n".join(["[Service]", *lines, ""]), encoding="utf-8")
    service.systemctl("daemon-reload")
    try:
        yield
    finally:
        (directory / "test.conf").unlink()
        directory.rmdir()
        service.systemctl("daemon-reload")


def test_a_supervisor_that_is_killed_again_and_again_costs_nothing(service: Service) -> None:
    # Mutations, each seen red: KillMode=mixed; nothing kept in systemd's store (src/run/store.rs).
    before = service.pids()
    with talking(service) as talk:
        for _ in range(KILLS):
            old = kill(service)
            talk.goes_on()
            another_runs(service, old)
            talk.goes_on()
            assert same_but_fork_server(before, service.pids())
    assert service.properties("NRestarts")["NRestarts"] == str(KILLS)


def test_who_connects_while_nobody_is_there_waits(service: Service) -> None:
    # Mutation: nothing kept in systemd's store: seen red (and refused, without the next line).
    assert int(service.properties("NFileDescriptorStore")["NFileDescriptorStore"]) > len(service.pids())
    old, router = main_pid(service), service.pids()["router"]
    # Stopped first, so that it does not start another router in between.
    service.machine.run("kill", "-STOP", old)
    service.machine.run("kill", "-KILL", str(router), old)
    waiting = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    waiting.request("GET", VERSIONS)
    assert waiting.getresponse().status == 200
    waiting.close()
    another_runs(service, old)


def test_how_a_process_ended_meanwhile_is_known(service: Service) -> None:
    # Mutation: processes not kept in systemd's store: seen red.
    old, pid = main_pid(service), service.pids()["generic-1"]
    service.machine.run("kill", "-STOP", old)
    service.machine.run("kill", "-KILL", str(pid), old)
    another_runs(service, old)
    unit = next(unit for unit in service.status()["units"] if unit["name"] == "generic-1")
    assert unit["pid"] != pid
    assert unit["restarts"] == 1


@pytest.mark.parametrize("when", ["after it is back", "before it is back"])
def test_a_stop_after_a_crash_leaves_nothing(service: Service, when: str) -> None:
    # Mutations, each seen red before it is back: no ExecStopPost=; nobody who waits for what becomes of the
    # service. Once it is back it has taken over, and stops everything itself.
    with overridden(service, *(["RestartSec=60s"] if when == "before it is back" else [])):
        old = kill(service)
        if when == "before it is back":
            wait_for("the gap", lambda: True if service.state() == "activating/auto-restart" else None)
            assert left(service)
        else:
            another_runs(service, old)
        service.systemctl("stop", UNIT)
        assert service.state() == "inactive/dead"
        wait_for("the end of the rest", lambda: None if left(service) else True)


def test_a_stop_needs_no_credential(service: Service) -> None:
    # systemd 257 gives it to starts alone.
    secret = service.toml.with_name("form-secret")
    secret.write_text("a secret that systemd hands over\n", encoding="utf-8")
    secret.chmod(0o600)
    with overridden(service, "LoadCredential=form:/etc/synvisor/form-secret", "RestartSec=60s"):
        service.systemctl("stop", UNIT)
        service.units = '[secrets]\nform_secret_file = "$CREDENTIALS_DIRECTORY/form"'
        service.write()
        service.systemctl("start", UNIT)
        service.wait_ready()
        service.systemctl("stop", UNIT)
        assert service.state() == "inactive/dead"
        service.systemctl("start", UNIT)
        service.wait_ready()
        kill(service)
        wait_for("the gap", lambda: True if service.state() == "activating/auto-restart" else None)
        service.systemctl("stop", UNIT)
        wait_for("the end of the rest", lambda: None if left(service) else True)


def test_a_stop_that_takes_too_long_leaves_nothing(service: Service) -> None:
    # Mutation: `timeout` taken for a crash (src/run/after_stop.rs): seen red.
    with overridden(service, "TimeoutStopSec=2s"):
        service.machine.run("kill", "-STOP", str(service.pids()["main"]))
        service.systemctl("stop", UNIT, check=False)
        assert service.properties("Result")["Result"] == "timeout"
        wait_for("the end of the rest", lambda: None if left(service) else True)
    service.systemctl("reset-failed", UNIT, check=False)


def test_a_supervisor_that_hangs_is_replaced(service: Service) -> None:
    # Mutations, each seen red: no WatchdogSec= in the unit; WatchdogSec=0 below.
    assert service.properties("WatchdogUSec") == {"WatchdogUSec": "30s"}
    service.systemctl("stop", UNIT)
    with overridden(service, "WatchdogSec=3s"):
        service.systemctl("start", UNIT)
        service.wait_ready()
        before = service.pids()
        with talking(service) as talk:
            old = main_pid(service)
            service.machine.run("kill", "-STOP", old)
            talk.goes_on()
            another_runs(service, old)
            talk.goes_on()
        assert same_but_fork_server(before, service.pids())
    assert "Watchdog timeout" in journal(service)


def test_an_upgrade_of_synvisor_costs_nothing(service: Service) -> None:
    # Mutation: TCP sockets not passed on (src/run/upgrade.rs), which cannot be copied here: seen red, the new
    # one ends.
    old, before = main_pid(service), service.pids()
    binary = service.machine.root / "usr/bin/synvisor"
    with talking(service) as talk:
        talk.goes_on()
        new = binary.with_name("synvisor.dpkg-new")
        new.write_bytes(binary.read_bytes())
        new.chmod(0o755)
        new.rename(binary)
        done = service.machine.run("synvisor", "self-upgrade")
        assert "has taken over from" in done.stdout
        talk.goes_on()
        service.wait_ready()
        assert main_pid(service) == old, journal(service)
        # What systemd keeps is still what it is to give back.
        killed = kill(service)
        another_runs(service, killed)
        talk.goes_on()
    after = service.pids()
    assert {unit for unit in before if before[unit] != after[unit]} == {"forkserver", "router"}
