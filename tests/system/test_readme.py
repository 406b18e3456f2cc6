"""Somebody who has a fresh Debian and the README, and does what it says, word for word."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.support.matrix import Client
from tests.support.toolchain import ROOT

from .machine import Machine, online, suites
from .service import UNIT, package
from .terminal import Terminal

pytestmark = pytest.mark.timeout(1800)

# What the front proxy would be told of; nobody else on the host may have it.
PORT = 8008
NAME = "matrix.test"
PASSWORD = "correct horse"
# What somebody says who takes what is suggested.
ANSWERS = {
    "[Y/n] ": "y",
    # Twice, since the first answer cannot be.
    "it can never change: ": ["Matrix.Test", NAME],
    f"Where clients reach it [https://{NAME}/]: ": "",
    "Workers (": "",
    "PostgreSQL: external or embedded [external]: ": "",
    "Redis: external or embedded [external]: ": "",
    "New password: ": PASSWORD,
    "Once more: ": PASSWORD,
}
# How the host reaches PyPI.
WORLD = {
    name: value for name, value in os.environ.items() if name.upper().endswith("_PROXY") or name[:4] == "PIP_"
}


def commands() -> list[str]:
    """Those of the README under "Run it"."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Run it\n")[1]
    block = section.split("```sh\n")[1].split("```")[0]
    return [line.split("  #")[0].strip() for line in block.splitlines()]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    machine = Machine(suites()[-1], {})
    try:
        machine.boot()
        online(machine)
        machine.run("apt-get", "--quiet", "update", seconds=600)
        # Any Debian that somebody logs in to has it.
        machine.run("apt-get", "--quiet", "--yes", "install", "sudo", seconds=600)
        # What `make deb` leaves here.
        built = machine.root / "root/target/package"
        built.mkdir(parents=True)
        shutil.copy(package("deb"), built)
        yield machine
    finally:
        machine.stop()


@pytest.fixture(scope="module")
def shell(machine: Machine) -> Iterator[Terminal]:
    terminal = Terminal(machine, WORLD)
    terminal.run("cd /root", {})
    try:
        yield terminal
    finally:
        terminal.close()


def test_a_fresh_debian_has_a_homeserver_in_less_than_ten_commands(machine: Machine, shell: Terminal) -> None:
    # Mutations, each seen red: `--now` left out in the README, what is the supervisor's made by root.
    build, *others = commands()
    assert build == "make deb"
    assert len(others) < 9
    for command in others:
        said = shell.run(command, ANSWERS, seconds=900)
        print(f"$ {command}\n{said}")
        assert "init" not in command or "write it in lower case" in said
    alice = Client(PORT).login("alice", PASSWORD)
    assert alice.user == f"@alice:{NAME}"
    room = alice.create_room()
    alice.send(room, "hello")
    alice.wait_for_message(room, "hello")
    assert alice.user in shell.run("sudo synvisor user list --admins", {})


def test_who_moves_in_is_told_how(machine: Machine, shell: Terminal) -> None:
    # Mutation: nobody asked who comes to the database: seen red (it says how to start).
    shell.run("systemctl stop synvisor", {})
    session = "import psycopg2, time; held = psycopg2.connect(dbname='synapse'); time.sleep(600)"
    python = "exec /var/lib/synvisor/venvs/*/bin/python"
    machine.run("systemd-run", "--unit=another", "--uid=synvisor", "sh", "-c", f'{python} -c "{session}"')
    said = ""
    for _ in range(20):
        said = shell.run("sudo synvisor init --yes", {}, seconds=300)
        if "can be started" not in said:
            break
    assert "Another Synapse serves with this database (1 connections)" in said, said
    machine.run("systemctl", "stop", "another")
    shell.run("systemctl start synvisor", {})


def test_uploads_may_lie_elsewhere(machine: Machine, shell: Terminal) -> None:
    # Mutation: no drop-in written: seen red.
    place = "/data/media"
    shell.run("systemctl stop synvisor", {})
    said = shell.run(f"sudo synvisor init --yes --media {place}", {}, seconds=300)
    assert "systemctl daemon-reload" in said
    shell.run("systemctl daemon-reload && systemctl start synvisor", {})
    alice = Client(PORT).login("alice", PASSWORD)
    alice.raw("POST", "/_matrix/media/v3/upload", b"text", {"Content-Type": "text/plain"})
    held = machine.root / place.removeprefix("/")
    assert [path for path in held.rglob("*") if path.is_file()]
    assert machine.run("stat", "--format=%a %U:%G", place).stdout.strip() == "700 synvisor:synvisor"
    assert machine.run("systemctl", "is-active", UNIT).stdout.strip() == "active"
