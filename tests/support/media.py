"""Media stores as Synapse lays them out, and file systems to have them on."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .deployment import Deployment

# The folders of Synapse's media store (synapse/media/filepath.py), by how many names lie above a file.
LOCAL, REMOTE = "local_content", "remote_content"
UNFINISHED = ".synvisor-unfinished"


def fill(store: Path, files: int, seed: int = 1, largest: int = 16_384, folder: str = LOCAL) -> list[Path]:
    """Makes files of up to so many bytes, and gives their paths from the root of the store."""
    dice = random.Random(seed)
    made = []
    for _ in range(files):
        name = f"{dice.getrandbits(96):024x}"
        path = Path(folder, name[:2], name[2:4], name[4:])
        if folder == REMOTE:
            path = Path(folder, "remote.example", name[:2], name[2:4], name[4:])
        (store / path).parent.mkdir(parents=True, exist_ok=True)
        (store / path).write_bytes(dice.randbytes(dice.randint(1, largest)))
        made.append(path)
    return made


def contents(store: Path) -> dict[str, bytes]:
    """Every file with what it holds."""
    held = {}
    for directory, _, files in os.walk(store):
        for file in files:
            path = Path(directory, file)
            held[str(path.relative_to(store))] = path.read_bytes()
    return held


def owners(store: Path) -> set[int]:
    """Whoever has anything below a store."""
    return {path.lstat().st_uid for path in store.rglob("*")}


@contextlib.contextmanager
def mounted(kind: str, megabytes: int) -> Iterator[Path]:
    """A file system of its own; for root alone."""
    directory = Path(tempfile.mkdtemp(prefix="sv", dir="/tmp"))
    directory.chmod(0o755)
    image, place = directory / "image", directory / "mnt"
    place.mkdir()
    if kind == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(place)]
    else:
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        quiet = {"ext4": ["-q", "-i", "4096"], "btrfs": ["-q"]}.get(kind, [])
        subprocess.run([f"mkfs.{kind}", *quiet, str(image)], check=True, stdout=subprocess.DEVNULL)
        mount = ["mount", "-o", "loop", str(image), str(place)]
    subprocess.run(mount, check=True)
    try:
        place.chmod(0o755)
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        image.unlink(missing_ok=True)
        place.rmdir()
        directory.rmdir()


class Mover:
    """A homeserver that does not run, to which a media store moves."""

    def __init__(self, place: Path | None = None, **settings: object) -> None:
        """`place` is where its media lie, if not in the state directory; it has to be there."""
        self.home = Deployment(**settings)  # type: ignore[arg-type]
        self.new = self.home.state / "media_store"
        if place:
            self.home.state.mkdir()
            self.new.symlink_to(place)

    def command(self, store: Path, *options: str) -> list[str]:
        return self.home.command("import", "media", str(store), *options)

    def bring(self, store: Path, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(store, *options), capture_output=True, text=True, timeout=300, check=False
        )

    def brought(self, store: Path, *options: str) -> str:
        done = self.bring(store, *options)
        assert done.returncode == 0, done
        return done.stdout

    def close(self) -> None:
        self.home.close()
