"""SIGKILL of each process in turn is repaired, and no message is lost or doubled."""

from __future__ import annotations

import os
import signal

from tests.support.deployment import Deployment, command_line, deployed, wait_for


def wait_for_another(deployment: Deployment, unit: str, old: int) -> None:
    def replaced() -> bool | None:
        found = deployment.unit(unit)
        return True if found["state"] == "ready" and found["pid"] not in (None, old) else None

    try:
        wait_for(f"{unit} back", replaced, 90)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{deployment.cli('status').stdout}") from None


def test_every_process_that_is_killed_comes_back_and_no_message_is_lost() -> None:
    # Mutations, each seen red: no start after an unasked exit (src/supervise/unit.rs): nothing comes back;
    # Effect::Admit not passed on to the router (src/run/mod.rs): messages time out.
    with deployed('preset = "one-of-each"') as home:
        alice = home.client().register("alice", "a password")
        room = alice.create_room()
        sent: list[str] = []

        def send(text: str) -> None:
            alice.send(room, text)
            sent.append(text)

        before = home.pids()
        for unit, pid in before.items():
            assert pid is not None
            send(f"before {unit}")
            os.kill(pid, signal.SIGKILL)
            send(f"while {unit} is away")
            wait_for_another(home, unit, pid)
            send(f"after {unit}")
        home.wait_ready()
        after = home.pids()
        assert set(after) == set(before)
        assert not {unit for unit in before if before[unit] == after[unit]}
        assert alice.messages(room) == sent


def test_a_supervisor_that_is_killed_leaves_no_second_set_of_processes() -> None:
    # Mutations, each seen red: children without the lock (the new supervisor starts beside them), and
    # children that are not told to end (it never gets the lock).
    with deployed("generic = 1") as home:
        assert home.process
        before = {unit: pid for unit, pid in home.pids().items() if pid}
        # It cannot obey the signal that the supervisor's death sends it, as in a long transaction.
        os.kill(before["generic-1"], signal.SIGSTOP)
        try:
            home.process.kill()
            home.process.wait()
            home.start()
            waits = "waiting for the processes of an earlier"
            wait_for("the new supervisor to wait", lambda: waits in home.tail() or None, 20)
            assert home.cli("status").returncode == 69
        finally:
            os.kill(before["generic-1"], signal.SIGCONT)
        home.wait_ready()
        for unit, pid in before.items():
            assert not command_line(pid), f"{unit} of the dead supervisor still runs beside its successor"
        assert "versions" in home.client().call("GET", "/_matrix/client/versions")
