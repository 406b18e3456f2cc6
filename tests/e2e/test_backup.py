"""A homeserver is saved while it serves, and made again from that where nothing is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.bench.services import Services
from tests.support.deployment import EMBEDDED, ORDINARY, Deployment, wait_for
from tests.support.matrix import Client
from tests.support.media import contents
from tests.support.toolchain import prepare

PICTURE = bytes(range(256)) * 64


class Saved:
    """A homeserver in use, with its backup."""

    def __init__(self, home: Deployment, *options: str) -> None:
        self.home = home
        home.start().wait_ready()
        self.alice = home.client().register("alice", "a password")
        self.bob = home.client().register("bob", "a password")
        self.room = self.alice.create_room(preset="private_chat")
        self.alice.invite(self.room, self.bob.user)
        self.bob.join(self.room)
        self.alice.send(self.room, "of before")
        self.picture = self.alice.upload(PICTURE)
        self.directory = home.directory / "backup"
        self.key = self.keys(self.alice)
        done = home.cli("backup", str(self.directory), *options, timeout=300)
        assert done.returncode == 0, done
        # What came later is not in it.
        self.alice.send(self.room, "of after")

    @staticmethod
    def keys(client: Client) -> object:
        return client.call("GET", "/_matrix/key/v2/server")["verify_keys"]

    def lose(self) -> None:
        """Everything but the backup."""
        self.home.stop()
        shutil.rmtree(self.home.state)
        shutil.rmtree(self.home.run, ignore_errors=True)
        self.home.toml.unlink()

    def restore(self) -> subprocess.CompletedProcess[str]:
        return self.home.cli("restore", str(self.directory), timeout=300)

    def assert_all_there(self) -> None:
        self.home.start().wait_ready()
        for person in (self.alice, self.bob):
            assert person.call("GET", "/_matrix/client/v3/account/whoami")["user_id"] == person.user
            assert person.messages(self.room) == ["of before"]
        assert self.keys(self.alice) == self.key


@contextlib.contextmanager
def saved(*options: str, services: str = EMBEDDED) -> Iterator[Saved]:
    home = Deployment("generic = 1", services=services)
    try:
        yield Saved(home, *options)
    finally:
        home.close()


def test_a_homeserver_is_made_again_from_its_backup() -> None:
    with saved("--media", "--checksums") as world:
        for path in [world.directory, *world.directory.rglob("*")]:
            stat = path.stat()
            assert stat.st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
            assert stat.st_uid == (ORDINARY[0] if ORDINARY else os.geteuid()), path
        listed = (world.directory / "media.tsv").read_text(encoding="utf-8").splitlines()
        assert {line.split("\t")[0] for line in listed} == contents(world.directory / "media").keys()
        assert all(len(line.split("\t")[3]) == 64 for line in listed)
        again = world.home.cli("backup", str(world.directory))
        assert again.returncode == 1, again
        assert "overwrites nothing" in again.stderr, again
        running = world.restore()
        assert running.returncode == 1, running
        assert "has data of its own" in running.stderr, running
        world.lose()
        done = world.restore()
        assert done.returncode == 0, done
        world.assert_all_there()
        assert world.bob.download(world.picture) == PICTURE
        # Whoever is made new gets another id than those of before.
        world.alice.send(world.room, "of later")
        assert world.bob.messages(world.room) == ["of before", "of later"]


def test_what_is_there_is_not_overwritten() -> None:
    # Mutation: another secret taken for the same: seen red.
    with saved() as world:
        world.home.stop()
        secret = world.home.state / "secrets" / "macaroon_secret_key"
        text = secret.read_text(encoding="utf-8")
        secret.write_text("another", encoding="utf-8")
        refused = world.restore()
        assert refused.returncode == 1, refused
        assert "macaroon_secret_key is another one than the backup's" in refused.stderr, refused
        assert secret.read_text(encoding="utf-8") == "another"
        secret.write_text(text, encoding="utf-8")
        refused = world.restore()
        assert refused.returncode == 1, refused
        assert "is not empty, and is not overwritten" in refused.stderr, refused
        world.home.start().wait_ready()
        assert world.bob.messages(world.room) == ["of before", "of after"]


def test_a_backup_that_was_broken_off_is_none() -> None:
    with saved() as world:
        manifest = world.directory / "manifest.json"
        text = manifest.read_text(encoding="utf-8")
        manifest.unlink()
        refused = world.restore()
        assert refused.returncode == 1, refused
        assert "was not completed" in refused.stderr, refused
        manifest.write_text(json.dumps({**json.loads(text), "format": 2}), encoding="utf-8")
        refused = world.restore()
        assert "has the format 2" in refused.stderr, refused


def test_a_restore_that_was_killed_is_taken_up_in_a_postgresql_of_ones_own() -> None:
    with contextlib.closing(Services(prepare())) as services, saved(services=services.toml()) as world:
        world.lose()
        drop = ["DROP DATABASE synapse", "CREATE DATABASE synapse"]
        psql = [services.programs / "psql", "-h", services.directory, "-U", "synapse", "-d", "postgres"]
        for statement in drop:
            services.run(*psql, "-qc", statement)
        command = world.home.command("restore", str(world.directory))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        count = [*psql[:-1], "synapse", "-tAc", "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"]
        while process.poll() is None and tables(count) < 20:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
        assert tables(count) >= 20
        assert not (world.home.state / "restored.json").exists()
        done = world.restore()
        assert done.returncode == 0, done
        # The list says what is to be brought back from elsewhere.
        assert "0 of 1 files" in done.stdout, done
        world.assert_all_there()


def test_a_table_that_somebody_wants_alone_is_waited_for() -> None:
    # Mutation: not begun anew: seen red.
    with contextlib.closing(Services(prepare())) as services, saved(services=services.toml()) as world:
        connection = {"host": str(services.directory), "user": "synapse", "dbname": "synapse"}
        with ThreadPoolExecutor() as pool, contextlib.closing(psycopg2.connect(**connection)) as wanting:
            wanted = pool.submit(want_alone, wanting, connection)
            done = world.home.cli("backup", str(world.directory.with_name("another")), timeout=300)
            wanted.result()
        assert done.returncode == 0, done
        assert (world.directory.with_name("another") / "database" / "toc.dat").exists()


def want_alone(wanting: Any, connection: dict[str, str]) -> None:
    """Wants a table for itself when pg_dump has begun, as an update of Synapse does, and has it until pg_dump
    waits for it.
    """
    dumping = (
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
        "WHERE relation = 'users'::regclass AND application_name = 'pg_dump' AND granted = %s"
    )
    with contextlib.closing(psycopg2.connect(**connection)) as looking:
        looking.autocommit = True
        cursor = looking.cursor()

        def seen(granted: bool) -> bool | None:
            cursor.execute(dumping, (granted,))
            return cursor.fetchone()[0] > 0 or None

        wait_for("pg_dump", lambda: seen(True), 60, pause=0.002)
        wanting.cursor().execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        wait_for("pg_dump that waits", lambda: seen(False), 60)
        wanting.rollback()


def tables(command: list[object]) -> int:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    return int(done.stdout or 0)


@pytest.mark.skipif(not ORDINARY, reason="whoever is not root has nothing to lose")
def test_files_that_the_configuration_names_come_back_and_no_others() -> None:
    home = Deployment("generic = 1", services=EMBEDDED)
    named, other = home.directory / "form", home.directory / "other"
    named.write_text("a secret of ours\n", encoding="utf-8")
    named.chmod(0o600)
    home.extra = f'[secrets]\nform_secret_file = "{named}"'
    home.write()
    try:
        world = Saved(home)
        world.lose()
        named.unlink()
        manifest = world.directory / "manifest.json"
        text = json.loads(manifest.read_text(encoding="utf-8"))
        assert text["files"] == [str(named)]
        text["files"].append(str(other))
        manifest.write_text(json.dumps(text), encoding="utf-8")
        (world.directory / "files" / "1").write_text("nobody asked for", encoding="utf-8")
        done = world.restore()
        assert done.returncode == 0, done
        assert named.read_text(encoding="utf-8").strip() == "a secret of ours"
        assert Path(named).stat().st_mode & 0o777 == 0o600
        assert not other.exists()
        world.assert_all_there()
    finally:
        home.close()
