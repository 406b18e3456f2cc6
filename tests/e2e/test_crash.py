"""SIGKILL of each process in turn is repaired, and no message is lost or doubled."""

from __future__ import annotations

import os
import signal

from tests.support.deployment import Deployment, deployed, wait_for


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
