"""Media stores move in: on one file system and across two, broken off, out of room, changed underneath."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import ORDINARY, ROOT_USER, wait_for
from tests.support.media import (
    LOCAL,
    REMOTE,
    UNFINISHED,
    Mover,
    contents,
    fill,
    mounted,
    owners,
)
from tests.support.toolchain import install_packages

only_root = pytest.mark.skipif(not ROOT_USER, reason="only root mounts file systems and gives files away")
# Whom the old server runs as.
OTHER = 4_000_000


@pytest.fixture
def old() -> Iterator[Path]:
    """A media store on the file system of the homeserver, somebody else's."""
    with tempfile.TemporaryDirectory(prefix="sv", dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        store = Path(directory, "media_store")
        fill(store, 50)
        give(store, OTHER)
        yield store


@pytest.fixture
def mover() -> Iterator[Mover]:
    with contextlib.closing(Mover()) as mover:
        yield mover


@pytest.fixture
def across() -> Iterator[Mover]:
    """One whose media lie on a file system of their own."""
    with mounted("tmpfs", 8) as place:
        assert ORDINARY
        os.chown(place, *ORDINARY)
        with contextlib.closing(Mover(place)) as mover:
            yield mover


def give(store: Path, uid: int) -> None:
    if ROOT_USER:
        for path in [store, *store.rglob("*")]:
            os.chown(path, uid, uid)


def refused(mover: Mover, store: Path, *options: str, code: int = 1) -> str:
    done = mover.bring(store, *options)
    assert done.returncode == code, done
    assert "\n  " in done.stderr, done
    return done.stderr


def owner() -> int:
    return ORDINARY[0] if ORDINARY else os.geteuid()


def test_on_one_file_system_both_servers_have_the_files_until_the_old_one_is_done(
    mover: Mover, old: Path
) -> None:
    closed = next(path for path in old.rglob("*") if path.is_file())
    closed.chmod(0o600)
    said = mover.brought(old)
    assert "50 files linked" in said, said
    assert "--finish" in said, said
    assert contents(mover.new) == contents(old)
    inodes = {path.stat().st_ino for path in old.rglob("*") if path.is_file()}
    assert inodes == {path.stat().st_ino for path in mover.new.rglob("*") if path.is_file()}
    if ROOT_USER:
        assert closed.stat().st_uid == OTHER
        files = [str(path) for path in old.rglob("*") if path.is_file()]
        read = ["setpriv", f"--reuid={OTHER}", "--clear-groups", "cat", *files]
        subprocess.run(read, check=True, stdout=subprocess.DEVNULL)
    new = fill(old, 7, seed=2)
    if ROOT_USER:
        for path in new:
            os.chown(old / path, OTHER, OTHER)
    (old / new[0]).unlink()
    others = (path for path in old.rglob("*") if path.is_file() and path.relative_to(old) not in new)
    gone = next(path for path in others if path != closed)
    gone.unlink()
    gone.parent.rmdir()
    said = mover.brought(old, "--finish")
    assert "6 files linked" in said, said
    assert "; 1 removed" in said, said
    assert "nothing has changed in" in said, said
    assert contents(mover.new) == contents(old)
    assert owners(mover.new) == {owner()}
    assert not (mover.new / gone.relative_to(old)).exists()


@only_root
def test_across_file_systems_what_changes_meanwhile_is_copied_again(across: Mover, old: Path) -> None:
    # Mutation: the time of the copy left as it is: seen red.
    first, second, *_ = fill(old, 2, seed=3)
    assert "52 files copied" in across.brought(old)
    assert contents(across.new) == contents(old)
    assert owners(across.new) == {owner()}
    assert (across.new / first).stat().st_mode & 0o777 == 0o600
    assert (across.new / first).stat().st_mtime_ns == (old / first).stat().st_mtime_ns
    again = across.brought(old)
    assert "nothing new" in again, again
    assert "52 were there" in again, again
    # What was still being received.
    with (old / first).open("ab") as file:
        file.write(b"the rest")
    reader = (across.new / first).open("rb")
    before = reader.read()
    os.utime(old / second, (1, 1))
    done = across.brought(old, "--finish")
    assert "2 files copied" in done, done
    assert contents(across.new) == contents(old)
    reader.seek(0)
    assert reader.read() == before
    reader.close()


@only_root
def test_data_are_shared_where_the_file_system_can(old: Path) -> None:
    install_packages(["btrfs-progs"])
    with mounted("btrfs", 128) as place:
        store, new = place / "old", place / "new"
        fill(store, 20)
        give(store, OTHER)
        new.mkdir()
        assert ORDINARY
        os.chown(new, *ORDINARY)
        with contextlib.closing(Mover(new)) as mover:
            assert "20 files cloned" in mover.brought(store)
            assert contents(new) == contents(store)
            assert (owners(store), owners(new)) == ({OTHER}, {owner()})
            # ext4 knows no clones, and says so.
    with contextlib.closing(Mover()) as mover:
        assert "cannot be cloned here" in refused(mover, old, "--how", "reflink")


def test_what_the_new_store_had_before_is_not_touched(mover: Mover, old: Path) -> None:
    first = next(path for path in old.rglob("*") if path.is_file()).relative_to(old)
    mover.new.mkdir(parents=True)
    mine = mover.new / first
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"of the new server")
    other = mover.new / LOCAL / "mine"
    other.write_bytes(b"too")
    if ORDINARY:
        for path in [mover.home.state, mover.new, *mover.new.rglob("*")]:
            os.chown(path, *ORDINARY)
    error = refused(mover, old, "--finish")
    assert f"{first}: another file has its name" in error, error
    assert mine.read_bytes() == b"of the new server"
    assert other.read_bytes() == b"too"
    assert len(contents(mover.new)) == 51


def test_after_the_end_nothing_is_removed_any_more(mover: Mover, old: Path) -> None:
    # Mutation: `finished` ignored: seen red.
    mover.brought(old, "--finish")
    new = mover.new / LOCAL / "uploaded"
    new.write_bytes(b"to the new server")
    mover.brought(old, "--finish")
    assert new.exists()


@only_root
@pytest.mark.parametrize("finish", [False, True])
def test_killed_at_any_moment_it_goes_on_and_no_half_file_is_seen(
    across: Mover, old: Path, finish: bool
) -> None:
    store = old.parent / "large"
    fill(store, 40, largest=300_000)
    whole = contents(store)
    dice = random.Random(7)
    kills = 0
    for _ in range(60):
        process = subprocess.Popen(
            across.command(store, *(["--finish"] if finish else [])),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(dice.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        held = {name: data for name, data in contents(across.new).items() if UNFINISHED not in name}
        assert held.items() <= whole.items()
    assert kills
    across.brought(store, "--finish")
    assert contents(across.new) == whole
    assert owners(across.new) == {owner()}


@only_root
def test_without_room_nothing_begins_and_what_runs_out_of_it_goes_on_later(across: Mover, old: Path) -> None:
    place = across.new.resolve()
    assert "52 files" not in across.brought(old)
    large = old / LOCAL / "la/rg/e"
    large.parent.mkdir(parents=True)
    large.write_bytes(bytes(9 << 20))
    # The first pass is whole, so that nobody looks at room again.
    error = refused(across, old, "--finish")
    assert "No space left" in error, error
    assert "df -h" in error, error
    assert error.count("No space") == 1, error
    assert not (across.new / "local_content/la/rg/e").exists()
    subprocess.run(["mount", "-o", "remount,size=32m", str(place)], check=True)
    said = across.brought(old, "--finish")
    assert "1 files copied" in said, said
    assert contents(across.new) == contents(old)


@only_root
def test_a_disk_that_is_too_small_is_noticed_before_anything_is_copied(across: Mover, old: Path) -> None:
    (old / LOCAL / "large").write_bytes(bytes(9 << 20))
    error = refused(across, old)
    assert "nothing was copied" in error, error
    assert "9.4 MiB are to come" in error, error
    assert contents(across.new) == {}


@only_root
def test_what_may_not_be_read_is_named_and_the_rest_is_brought(old: Path) -> None:
    assert ORDINARY
    closed = next(path for path in old.rglob("*") if path.is_file())
    closed.chmod(0o600)
    directory = old / LOCAL / "closed"
    directory.mkdir(mode=0o700)
    with contextlib.closing(Mover(run_as=ORDINARY)) as mover:
        done = mover.bring(old, "--finish")
        assert done.returncode == 1, done
        assert f"skipped: {closed.relative_to(old)}: Permission denied" in done.stderr, done
        assert "skipped: local_content/closed: Permission denied" in done.stderr, done
        assert "2 could not be brought" in done.stderr, done
        # Of somebody else's file nobody may make a hard link (fs.protected_hardlinks).
        assert "49 files copied" in done.stdout, done
        closed.chmod(0o644)
        directory.chmod(0o755)
        mover.brought(old, "--finish")
        assert contents(mover.new) == contents(old)


def test_links_are_named_and_not_followed(mover: Mover, old: Path) -> None:
    secret = old.parent / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(b"of nobody's business")
    (old / LOCAL / "link").symlink_to(secret / "key")
    (old / "local_thumbnails").symlink_to(secret)
    done = mover.bring(old)
    assert done.returncode == 1, done
    assert "local_content/link: it is a symbolic link" in done.stderr, done
    assert not (mover.new / LOCAL / "link").is_symlink()
    assert b"of nobody's business" not in contents(mover.new).values()


@only_root
def test_no_link_of_the_services_user_leads_root_anywhere(mover: Mover, old: Path) -> None:
    # Mutation: the owner of the new store not looked at: seen red.
    outside = old.parent / "outside"
    outside.mkdir()
    mover.home.state.mkdir()
    mover.new.symlink_to(outside)
    assert "belongs to root" in refused(mover, old)
    mover.new.unlink()
    mover.new.mkdir()
    (mover.new / LOCAL).symlink_to(outside)
    assert ORDINARY
    os.chown(mover.new, *ORDINARY)
    assert "no directory has its name" in refused(mover, old)
    assert list(outside.iterdir()) == []


def test_stores_that_overlap_and_what_is_none_are_refused(mover: Mover, old: Path) -> None:
    assert "has none of local_content" in refused(mover, old.parent)
    assert f"did you mean {old}?" in refused(mover, old.parent)
    inner = old / "inner"
    inner.mkdir()
    if ORDINARY:
        os.chown(inner, *ORDINARY)
    mover.new.rmdir()
    mover.new.symlink_to(inner)
    assert "lies in the other" in refused(mover, old)
    mover.new.unlink()
    mover.new.symlink_to(old)
    assert "already" in refused(mover, old)
    assert "takes the media from the old server" in refused(mover, old, "--how", "adopt", code=64)


def test_it_stays_where_it_is_and_gets_another_owner(mover: Mover, old: Path) -> None:
    # Mutation: owners left: seen red.
    before = contents(old)
    said = mover.brought(old, "--how", "adopt", "--finish")
    assert f"50 files stay in {old}" in said, said
    assert mover.new.resolve() == old.resolve()
    assert contents(mover.new) == before
    assert owners(old) == {owner()}
    assert old.stat().st_mode & 0o777 == 0o700
    # The same again is fine.
    mover.brought(old, "--how", "adopt", "--finish")


def test_files_that_are_moved_are_gone_from_the_old_store(mover: Mover, old: Path) -> None:
    before = contents(old)
    assert "50 files moved" in mover.brought(old, "--how", "rename", "--finish")
    assert contents(mover.new) == before
    assert contents(old) == {}
    assert owners(mover.new) == {owner()}
    # A second run knows that what is not in the old store any more was moved, not deleted.
    mover.brought(old, "--how", "rename", "--finish")
    assert contents(mover.new) == before


@only_root
def test_contents_are_compared_where_that_is_asked_for(across: Mover, old: Path) -> None:
    # Mutation: contents not compared: seen red.
    across.brought(old)
    victim = next(path for path in across.new.rglob("*") if path.is_file())
    stat, data = victim.stat(), victim.read_bytes()
    victim.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    os.utime(victim, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "nothing new" in across.brought(old)
    assert "1 files copied" in across.brought(old, "--verify")
    assert contents(across.new) == contents(old)


def test_what_other_servers_have_can_be_left_out(mover: Mover, old: Path) -> None:
    fill(old, 9, folder=REMOTE)
    mover.brought(old, "--finish", "--skip-remote")
    assert len(contents(mover.new)) == 50
    mover.brought(old, "--finish")
    assert contents(mover.new) == contents(old)


@only_root
def test_a_file_that_is_written_to_while_it_is_copied_is_named_in_the_end(across: Mover, old: Path) -> None:
    growing = old / LOCAL / "growing"
    stop = old.parent / "stop"
    growing.write_bytes(bytes(2 << 20))
    # Another time of writing at every moment.
    program = (
        "import itertools, os, sys\n"
        "for n in itertools.count():\n"
        " if os.path.exists(sys.argv[2]): break\n"
        " os.utime(sys.argv[1], ns=(n, n))"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(growing), str(stop)])
    try:

        def named() -> bool | None:
            # A move that has ended is not taken up again: what is there could be the new server's.
            (across.home.state / "media_import.json").unlink(missing_ok=True)
            for held in (across.new / LOCAL, across.new / REMOTE):
                shutil.rmtree(held, ignore_errors=True)
            done = across.bring(old, "--finish")
            return True if done.returncode == 1 and "growing: it was written to" in done.stderr else None

        wait_for("the file to be written to in that moment", named, 60)
    finally:
        stop.touch()
        writer.wait()
    across.brought(old, "--finish")
    assert contents(across.new) == contents(old)


def test_two_at_a_time_are_refused(mover: Mover, old: Path) -> None:
    # Mutation: no lock: seen red.
    mover.brought(old)
    lock = mover.home.state / "media_import.lock"
    with subprocess.Popen(["flock", str(lock), "sh", "-c", "echo; read -r _"], stdin=-1, stdout=-1) as holder:
        assert holder.stdout
        holder.stdout.readline()
        assert "another import of media runs" in refused(mover, old, code=75)
        holder.communicate(b"\n")
    mover.brought(old)
