"""`init` and `upgrade`: a Synapse is made, and takes the place of another one, under load and both ways."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import LIVELY, Deployment
from tests.support.toolchain import prepare, psql
from tests.support.traffic import UNLIMITED, Traffic

from .test_restarts import nothing_failed

pytestmark = [pytest.mark.timeout(1800), pytest.mark.busy]

# The last Synapse of an older schema of the database; one whose tokens of /sync it understands, so that users
# go on both ways; and that of the tests, whose tokens it refuses (400): since 1.154 they have a part more.
OLD, NEAR, NEW = "1.149.0", "1.153.0", "1.163.2"
PYTHON = 'synapse = "{}"\npackages = [{}]'
# Imports with any Synapse, and does not begin with the new one.
MODULE = f"""
from importlib.metadata import version

class Module:
    def __init__(self, config, api):
        if version("matrix-synapse").startswith("{NEW}"):
            raise RuntimeError("this module is broken")
"""


def named(home: Deployment, version: str) -> Path:
    """Where the virtualenv of a version lies."""
    home.python = PYTHON.format(version, "")
    home.write()
    shown = json.loads(home.cli("config", "show", "--json").stdout)
    return Path(next(key["value"].strip('"') for key in shown if key["key"] == "venv"))


@pytest.fixture(scope="module")
def home() -> Iterator[Deployment]:
    home = Deployment(
        "generic = 2\nevents = 1\nfederation_sender = 1\nmedia_repository = 1", synapse=UNLIMITED + LIVELY
    )
    try:
        # The tests' own Synapse is there already.
        place = named(home, NEW)
        for version in (NEAR, OLD):
            home.python = PYTHON.format(version, "")
            home.write()
            made = home.cli("init", "--yes", timeout=900)
            assert made.returncode == 0, made
            assert f"{version}-" in made.stdout, made
        place.symlink_to(prepare())
        yield home.start().wait_ready()
    finally:
        home.close()


def version(home: Deployment) -> str:
    found: str = home.client().call("GET", "/_matrix/federation/v1/version")["server"]["version"]
    return found


def under_load(home: Deployment, *steps: tuple[str, ...]) -> tuple[list[Any], dict[str, Any]]:
    """Upgrades one after the other, and what became of the requests meanwhile."""
    done = []
    with Traffic(home.port) as traffic:
        traffic.breathe()
        for arguments in steps:
            traffic.phase(f"upgrade {' '.join(arguments)}")
            done.append(home.cli("upgrade", *arguments, timeout=600))
            traffic.breathe()
        report = traffic.stop()
    print(*(one.stdout for one in done))
    print(f"the longest that each kind of request took, in ms: {json.dumps(report['slowest_ms'])}")
    return done, report


def assert_nobody_was_turned_away(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done
    assert "endpoints go where they are answered" in done.stdout, done
    assert "nobody was away longer than" in done.stdout, done
    assert re.search(r"; [1-9]\d* requests waited, \d+\.\d s at most", done.stdout), done


def test_it_takes_the_place_of_another_one_and_goes_back_without_a_failed_request(home: Deployment) -> None:
    before = home.toml.read_text(encoding="utf-8")
    (done, back), report = under_load(home, (NEAR,), ("--rollback",))
    for one in (done, back):
        assert_nobody_was_turned_away(one)
    nothing_failed(report)
    # The old one goes on with the new schema, which is made while it serves.
    assert f"schema 93 → 94: rollback to {OLD} is possible" in done.stdout, done
    assert "schema 94 while the old Synapse serves" in done.stdout, done
    assert f"schema 94 stays: rollback to {NEAR} is possible" in back.stdout, back
    assert version(home).startswith(OLD)
    assert home.toml.read_text(encoding="utf-8") == before
    assert home.cli("plan").returncode == 0


def test_one_that_speaks_otherwise_of_where_clients_are_is_taken_up_too(home: Deployment) -> None:
    before = home.toml.read_text(encoding="utf-8")
    (done,), report = under_load(home, (NEW,))
    assert_nobody_was_turned_away(done)
    nothing_failed(report)
    assert version(home).startswith(NEW)
    # One word is another one, and nothing else.
    assert home.toml.read_text(encoding="utf-8") == before.replace(OLD, NEW)
    # Nobody goes on from here who was there before.
    user = home.client().register("returns", "a password")
    room = user.create_room()
    done = home.cli("upgrade", "--rollback", timeout=600)
    assert done.returncode == 0, done
    assert version(home).startswith(OLD)
    assert room in user.call("GET", "/_matrix/client/v3/joined_rooms")["joined_rooms"]
    user.send(room, "after")
    assert user.messages(room) == ["after"]
    assert home.toml.read_text(encoding="utf-8") == before


def test_there_is_no_way_back_across_a_schema_that_asks_for_more(home: Deployment) -> None:
    # What a Synapse leaves that is newer than both of them.
    def oldest_code(number: int) -> None:
        statement = f"UPDATE schema_compat_version SET compat_version = {number}"
        command = [
            psql(),
            "-h",
            str(home.run / "postgres"),
            "-U",
            "synapse",
            "-d",
            "synapse",
            "-qc",
            statement,
        ]
        subprocess.run(command, check=True, capture_output=True, user=home.user)

    text, pids = home.toml.read_text(encoding="utf-8"), home.pids()
    oldest_code(95)
    try:
        done = home.cli("upgrade", "--rollback", timeout=600)
    finally:
        oldest_code(84)
    assert done.returncode == 1, done
    assert "asks for a Synapse that knows 95; this one knows 94" in done.stderr, done
    assert "nothing was changed" in done.stderr, done
    assert (home.toml.read_text(encoding="utf-8"), home.pids()) == (text, pids)


def test_one_that_does_not_come_up_is_undone(home: Deployment) -> None:
    module = home.directory / "broken_module.py"
    module.write_text(MODULE, encoding="utf-8")
    environment = f'[units.all.environment]\nPYTHONPATH = "{home.directory}"'
    home.extra = environment
    home.synapse = f'modules = [{{ module = "broken_module.Module", config = {{}} }}]\n{UNLIMITED}{LIVELY}'
    home.python = PYTHON.format(OLD, "")
    home.write()
    assert home.cli("reload", timeout=300).returncode == 0
    text = home.toml.read_text(encoding="utf-8")
    (done,), report = under_load(home, (NEW,))
    assert done.returncode == 1, done
    assert "this module is broken" in done.stderr, done
    assert "rolled back" in done.stderr, done
    nothing_failed(report)
    assert version(home).startswith(OLD)
    assert home.toml.read_text(encoding="utf-8") == text
    assert home.cli("plan").returncode == 0


def test_changes_that_wait_in_the_file_are_not_brought_along(home: Deployment) -> None:
    home.extra += '\n[units.generic-1]\nlog_level = "DEBUG"'
    home.write()
    done = home.cli("upgrade", NEW, timeout=300)
    assert done.returncode == 1, done
    assert "apply it first" in done.stderr, done
    assert home.cli("reload", timeout=300).returncode == 0


def test_what_was_begun_is_not_taken_for_a_virtualenv(home: Deployment) -> None:
    text = home.toml.read_text(encoding="utf-8")
    home.python = PYTHON.format(OLD, '"six"')
    home.write()
    copy = home.directory / "other.toml"
    copy.write_text(home.toml.read_text(encoding="utf-8"), encoding="utf-8")
    home.toml.write_text(text, encoding="utf-8")

    def other(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(home.binary), *arguments, "--config", str(copy)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    failed = other("init", "--yes", "--python", "/nonexistent/python")
    assert failed.returncode == 1, failed
    assert "is no Python" in failed.stderr, failed
    for _ in range(2):
        # No wheel is there, and nothing is downloaded.
        failed = other("init", "--yes", "--wheels", str(home.directory))
        assert failed.returncode == 1, failed
        assert f"Synapse {OLD} could not be installed" in failed.stderr, failed
