"""A real Synapse moves to synvisor, from PostgreSQL and from SQLite, broken off at any step, and back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench.services import Services
from tests.support.deployment import EMBEDDED, ROOT_USER, free_port
from tests.support.matrix import Client
from tests.support.media import contents
from tests.support.old import NewServer, OldServer, owner
from tests.support.toolchain import prepare, psql

PICTURE = bytes(range(256)) * 64


@dataclass
class World:
    """An old server in use, and the new one that is to take its place."""

    old: OldServer
    new: NewServer
    alice: Client
    bob: Client
    room: str
    picture: str

    def assert_all_there(self, *texts: str) -> None:
        """The same tokens, the same room, the same media."""
        for person in (self.alice, self.bob):
            assert person.call("GET", "/_matrix/client/v3/account/whoami")["user_id"] == person.user
            assert self.bob.messages(self.room) == ["of before", *texts]
            assert person.download(self.picture) == PICTURE

    def done(self) -> list[str]:
        """The steps that the journal has."""
        with contextlib.suppress(OSError, ValueError):
            journal = json.loads((self.new.state / "migration.json").read_text(encoding="utf-8"))
            steps: list[str] = journal["done"]
            return steps
        return []


def inhabited(old: OldServer, new: NewServer) -> World:
    alice, bob = old.client().register("alice", "a password"), old.client().register("bob", "a password")
    room = alice.create_room(preset="private_chat")
    alice.invite(room, bob.user)
    bob.join(room)
    alice.send(room, "of before")
    return World(old, new, alice, bob, room, alice.upload(PICTURE))


@pytest.fixture
def from_sqlite() -> Iterator[World]:
    port = free_port()
    with (
        contextlib.closing(OldServer(port, f"localhost:{port}")) as old,
        contextlib.closing(NewServer(old, workers="generic = 1", services=EMBEDDED)) as new,
    ):
        yield inhabited(old.start().settle(), new)


@pytest.fixture
def from_postgres() -> Iterator[World]:
    port = free_port()
    with contextlib.closing(Services(prepare())) as services:
        # The old server is another user than the new one.
        services.directory.chmod(0o755)
        arguments = {"user": "synapse", "dbname": "synapse", "host": str(services.directory), "cp_max": 5}
        database = {"name": "psycopg2", "args": arguments}
        table = f'[database]\nhost = "{services.directory}"\nuser = "synapse"\nname = "synapse"\n'
        redis = f'[redis]\npath = "{services.redis}"\n'
        with (
            contextlib.closing(OldServer(port, f"localhost:{port}", database)) as old,
            contextlib.closing(NewServer(old, workers="generic = 1", services=table + redis)) as new,
        ):
            yield inhabited(old.start(), new)


def went(world: World, *options: str) -> str:
    done = world.new.migrate(*options)
    assert done.returncode == 0, f"{done}\n{world.new.output.exists() and world.new.tail()}"
    return done.stdout


@contextlib.contextmanager
def unable_to_start(new: NewServer) -> Iterator[None]:
    """What starts it for a move fails."""
    script = new.directory / "start.sh"
    text = script.read_text(encoding="utf-8")
    script.write_text("exit 1\n", encoding="utf-8")
    yield
    script.write_text(text, encoding="utf-8")


def test_a_server_on_postgresql_moves_and_returns(from_postgres: World) -> None:
    world = from_postgres
    said = went(world)
    assert "Nothing was done" in said, said
    assert world.old.pid()
    assert not (world.new.state / "migration.json").exists()
    key = world.alice.call("GET", "/_matrix/key/v2/server")["verify_keys"]
    said = went(world, "--go")
    assert "Without a server: " in said, said
    assert world.old.pid() is None
    world.assert_all_there()
    assert world.alice.call("GET", "/_matrix/key/v2/server")["verify_keys"] == key
    assert "the move is done" in went(world, "--go")
    world.bob.send(world.room, "of after")
    later = world.bob.upload(PICTURE[::-1])
    # An old server that does not start any more is no dead end.
    script = Path(world.old.start_command.removeprefix("sh "))
    starting = script.read_text(encoding="utf-8")
    script.write_text("exit 1\n", encoding="utf-8")
    broken = world.new.migrate("--back")
    assert broken.returncode == 1, broken
    assert "then --back again" in broken.stderr, broken
    assert "was broken off" in went(world, "--go")
    world.assert_all_there("of after")
    assert world.alice.download(later) == PICTURE[::-1]
    script.write_text(starting, encoding="utf-8")
    # Both have one database: nothing is lost.
    said = went(world, "--back")
    assert "The old server serves again" in said, said
    world.old.wait_ready()
    world.assert_all_there("of after")
    assert world.alice.download(later) == PICTURE[::-1]
    if ROOT_USER:
        assert {path.stat().st_uid for path in world.old.media.rglob("*")} == {owner()[0]}
    # Mutation: only a first start looked at: seen red (the port alone is in the way).
    beside = world.new.cli("supervise")
    assert (beside.returncode, "another Synapse" in beside.stderr) == (78, True), beside
    # And once more, with what was given back. Mutation: those files taken for unchanged: seen red.
    went(world, "--go")
    world.assert_all_there("of after")
    assert world.alice.download(later) == PICTURE[::-1]
    another = world.new.cli("migrate", f"--from={world.old.yaml}", "--old-container=another")
    assert "a move from another server has begun" in another.stderr, another
    (world.new.state / "migration.json").unlink()
    refused = world.new.migrate("--go")
    assert (refused.returncode, "synvisor runs already" in refused.stderr) == (1, True), refused


def test_a_copy_of_the_database_is_not_taken_for_it(from_postgres: World) -> None:
    # Mutations, each seen red: nobody asked who is connected; sessions of psql counted.
    world = from_postgres
    directory = json.loads(world.old.yaml.read_text(encoding="utf-8"))["database"]["args"]["host"]
    right = world.new.services
    with contextlib.closing(Services(prepare())) as others:
        others.directory.chmod(0o755)
        dump = subprocess.run(
            [Path(psql()).with_name("pg_dump"), "-h", directory, "-U", "synapse", "synapse"],
            check=True,
            capture_output=True,
        )
        client = [psql(), "-h", str(others.directory), "-U", "synapse", "-d", "synapse", "--quiet"]
        subprocess.run(client, input=dump.stdout, check=True, stdout=subprocess.DEVNULL)
        world.alice.send(world.room, "after the copy")
        world.new.services = right.replace(directory, str(others.directory))
        world.new.write()
        with subprocess.Popen(client, stdin=subprocess.PIPE) as somebody:
            refused = world.new.migrate("--go")
            somebody.communicate()
        assert refused.returncode == 1, refused
        assert "a copy of its database" in refused.stderr, refused
    world.new.services = right.replace('name = "synapse"', 'name = "copy"')
    world.new.write()
    refused = world.new.migrate("--go")
    assert "the database of the old server is synapse" in refused.stderr, refused
    assert world.old.pid()
    assert not (world.new.state / "migration.json").exists()
    world.new.services = right
    world.new.write()
    went(world, "--go")
    world.assert_all_there("after the copy")


def test_nobody_starts_beside_the_old_server(from_postgres: World) -> None:
    # Mutation: who comes to the database not asked for: seen red (it serves as soon as the port is free).
    world = from_postgres
    said = world.new.cli("supervise")
    assert said.returncode == 78, said
    assert "another Synapse seems to serve with it" in said.stderr, said
    world.old.stop()
    world.new.start().wait_ready()
    assert world.bob.messages(world.room) == ["of before"]


def test_a_server_on_sqlite_moves_and_says_what_a_return_would_lose(from_sqlite: World) -> None:
    world = from_sqlite
    # Mutation: read without what finds a module: seen red.
    module = world.new.directory / "ours" / "module.py"
    module.parent.mkdir(mode=0o755)
    module.write_text("class Module:\n    def __init__(self, config, api): pass\n", encoding="utf-8")
    world.new.extra += f'\n[units.all.environment]\nPYTHONPATH = "{module.parent}"'
    world.new.synapse = f'modules = [{{ module = "module.Module" }}]\n{world.new.synapse}'
    world.new.write()
    went(world, "--go")
    before = contents(world.old.directory)["homeserver.db"]
    world.assert_all_there()
    assert contents(world.old.directory)["homeserver.db"] == before
    world.alice.send(world.room, "to the new one")
    refused = world.new.migrate("--back")
    assert refused.returncode == 1, refused
    assert "1 events" in refused.stderr, refused
    world.assert_all_there("to the new one")
    went(world, "--back", "--anyway")
    world.old.wait_ready()
    world.assert_all_there()
    world.alice.send(world.room, "to the old one again")
    went(world, "--go")
    world.assert_all_there("to the old one again")


def test_killed_after_any_step_it_is_taken_up_there(from_sqlite: World) -> None:
    world = from_sqlite
    command = world.new.command("migrate", *world.new.flags, "--go")
    for count in range(1, 7):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None and len(world.done()) < count:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        said, _ = process.communicate()
        assert len(world.done()) >= count, said
    went(world, "--go")
    world.assert_all_there()


def test_a_port_that_was_broken_off_begins_anew(from_sqlite: World) -> None:
    # Mutation: the mark not looked at: seen red.
    world = from_sqlite
    command = world.new.command("migrate", *world.new.flags, "--go")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    port = world.new.state / "tmp" / "port.yaml"
    while process.poll() is None and not port.exists():
        time.sleep(0.005)
    # Into the middle of it.
    time.sleep(2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert "database" not in world.done()
    went(world, "--go")
    world.assert_all_there()


def test_what_does_not_fit_is_said_while_the_old_server_serves(from_sqlite: World) -> None:
    world = from_sqlite
    key = world.new.directory / "signing_key"
    text = key.read_text(encoding="utf-8")
    key.write_text("ed25519 a_other AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n", encoding="utf-8")
    refused = world.new.migrate("--go")
    assert refused.returncode == 1, refused
    assert "another one than that of" in refused.stderr, refused
    key.write_text(text, encoding="utf-8")
    world.new.server_name = "another.example"
    world.new.write()
    refused = world.new.migrate("--go")
    assert "a homeserver keeps its name for good" in refused.stderr, refused
    assert world.old.pid()
    assert not (world.new.state / "migration.json").exists()


def test_a_container_is_stopped_and_retired_by_docker(from_sqlite: World) -> None:
    """With a stand-in for Docker on PATH, since there is no engine here: it writes down what it is told, and
    stops and starts the old server."""
    world = from_sqlite
    programs = world.new.directory / "bin"
    programs.mkdir()
    told = programs / "told"
    docker = programs / "docker"
    made = programs / "made"
    made.write_text("true 0 ", encoding="utf-8")
    deadly = programs / "deadly"
    docker.write_text(
        f'#!/bin/sh\necho "$*" >>{told}\ncase $1 in\ncontainer) exec cat {made};;\n'
        f"update) test ! -e {deadly} || kill -9 $PPID;;\n"
        f"stop) exec {world.old.stop_command};;\nstart) exec {world.old.start_command};;\nesac\n",
        encoding="utf-8",
    )
    docker.chmod(0o755)
    flags = [flag for flag in world.new.flags if not flag.startswith("--old-")]
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}

    def migrate(*options: str) -> subprocess.CompletedProcess[str]:
        command = world.new.command("migrate", *flags, "--old-container=synapse", *options)
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    # Mutation: whether it is removed not asked: seen red.
    refused = migrate("--go")
    assert "removed when it stops" in refused.stderr, refused
    assert world.old.pid()
    made.write_text("false 5 on-failure", encoding="utf-8")
    # It ends by itself when it may not come back any more. Mutation: only what was stopped started: seen red.
    deadly.touch()
    assert migrate("--go").returncode == -signal.SIGKILL
    world.old.stop()
    deadly.unlink()
    told.unlink()
    assert migrate("--back").returncode == 0
    world.old.wait_ready()
    assert told.read_text().splitlines() == ["update --restart=on-failure:5 synapse", "start synapse"]
    told.unlink()
    assert migrate("--go").returncode == 0
    world.assert_all_there()
    asked, *rest = told.read_text().splitlines()
    assert asked.startswith("container inspect "), asked
    assert rest == ["update --restart=no synapse", "stop --time 60 synapse"]
    told.unlink()
    assert migrate("--back").returncode == 0
    world.old.wait_ready()
    world.assert_all_there()
    assert told.read_text().splitlines() == ["update --restart=on-failure:5 synapse", "start synapse"]


def test_what_synapse_would_refuse_is_said_while_the_old_server_serves(from_sqlite: World) -> None:
    # Mutation: nobody had Synapse read it: seen red (the old server is stopped).
    world = from_sqlite
    world.new.synapse += '\n[synapse.retention]\nenabled = true\ndefault_policy.min_lifetime = "soon"\n'
    world.new.write()
    refused = world.new.migrate("--go")
    assert refused.returncode == 78, refused
    assert "Synapse refuses this" in refused.stderr, refused
    assert "synvisor.toml:" in refused.stderr, refused
    assert world.old.pid()
    assert not (world.new.state / "migration.json").exists()
    assert not list((world.new.state / "check").iterdir())


@pytest.mark.parametrize("when", ["killed", "not-started", "gone-again"])
def test_an_old_server_that_has_come_back_is_stopped_again(from_sqlite: World, when: str) -> None:
    # Mutations, each seen red: who has the database not asked for; what was ported taken for whole; who has
    # gone again not noticed.
    world = from_sqlite
    kill = when == "killed"
    with unable_to_start(world.new):
        command = world.new.command("migrate", *world.new.flags, "--go")
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None and not (kill and "stop" in world.done()):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert kill or world.done()[-1] == "database"
    world.old.start()
    world.alice.send(world.room, "of meanwhile")
    if when == "gone-again":
        world.old.stop()
    assert "has come back" in went(world, "--go")
    world.assert_all_there("of meanwhile")


def test_what_was_uploaded_before_the_old_server_came_back_is_not_lost(from_postgres: World) -> None:
    # Mutation: not given to the old store before that is what counts: seen red.
    world = from_postgres
    with unable_to_start(world.new):
        assert world.new.migrate("--go").returncode == 1
    world.new.start().wait_ready()
    between = world.alice.upload(PICTURE[::-1])
    world.new.stop()
    world.old.start()
    assert "has come back" in went(world, "--go")
    world.assert_all_there()
    assert world.alice.download(between) == PICTURE[::-1]


def test_commands_of_the_journal_are_nobody_elses(from_sqlite: World) -> None:
    # Mutation: whoever's file believed: seen red.
    world = from_sqlite
    if not ROOT_USER:
        pytest.skip("whoever is not root has nothing to lose")
    went(world)
    world.new.state.mkdir(exist_ok=True)
    journal = Path(world.new.state / "migration.json")
    journal.write_text("{}", encoding="utf-8")
    os.chown(journal, *owner())
    refused = world.new.migrate("--back")
    assert refused.returncode == 1, refused
    assert "belongs to somebody else" in refused.stderr, refused
