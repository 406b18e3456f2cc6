"""`make bench`: for how long a homeserver is away while its media move to another store, on one file system
and across two, against what matrix-docker-ansible-deploy does meanwhile: `rsync -a --delete` and `chown -R`.

The medians are written to target/bench/media.json. For root alone, since file systems are mounted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.deployment import ROOT_USER, UNPRIVILEGED
from tests.support.media import LOCAL, Mover, fill, mounted
from tests.support.toolchain import install_packages

from .rows import save

BASELINE = "rsync -a --delete, chown -R"
OWNER = pwd.getpwnam(UNPRIVILEGED)[2:4]
# What the old server is given, and deletes, between the first pass and its stop.
NEW, DELETED = 100, 20


def forget() -> None:
    """Makes the machine one that has read none of these files."""
    subprocess.run(["sync"], check=True)
    Path("/proc/sys/vm/drop_caches").write_text("3", encoding="utf-8")


def timed(*command: str) -> float:
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return time.monotonic() - begun


@contextlib.contextmanager
def disks(files: int, across: bool) -> Iterator[tuple[Path, Path]]:
    """A media store, and a directory for others."""
    # A file of 8 KiB, its directories, and both sides beside each other.
    megabytes = 512 + files * 40 // 1024
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(mounted("ext4", megabytes))
        other = stack.enter_context(mounted("ext4", megabytes)) if across else one
        store = one / "media_store"
        store.mkdir()
        fill(store, files)
        yield store, other


def measure(store: Path, other: Path, seed: int) -> dict[str, float]:
    """Seconds of one round, in which both sides bring the same."""
    ours, theirs = other / "synvisor", other / "rsync"
    ours.mkdir(mode=0o700)
    os.chown(ours, *OWNER)
    mover = Mover(ours)
    try:
        forget()
        before = timed(*mover.command(store))
        for path in fill(store, NEW + DELETED, seed)[:DELETED]:
            (store / path).unlink()
        # The old server stops as soon as the first pass is over.
        away = timed(*mover.command(store, "--finish"))
    finally:
        mover.close()
    forget()
    copied = timed("rsync", "-a", "--delete", f"{store}/", f"{theirs}/")
    owned = timed("chown", "-R", f"{OWNER[0]}:{OWNER[1]}", str(theirs))
    assert count(ours) == count(theirs) == count(store)
    for side in (ours, theirs):
        shutil.rmtree(side)
    return {"before": before, "away": away, "rsync": copied + owned}


def count(store: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(store / LOCAL))


def row(metric: str, setup: str, value: float, other: float) -> dict[str, Any]:
    return {
        "metric": metric,
        "unit": "s",
        "setup": setup,
        "value": round(value, 3),
        "baseline": BASELINE,
        "baseline_value": round(other, 3),
        "ratio": round(value / other, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.media")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if not ROOT_USER:
        sys.exit("media.json was not written: only root may mount file systems; run it as root")
    if shutil.which("rsync") is None:
        install_packages(["rsync"])
    found = []
    for name, across in (("one file system", False), ("two file systems", True)):
        times: dict[str, list[float]] = defaultdict(list)
        setup = f"{arguments.files} files, {name}"
        with disks(arguments.files, across) as (store, other):
            for number in range(1, arguments.rounds + 1):
                for what, seconds in measure(store, other, 1_000 + number).items():
                    times[what].append(seconds)
                shown = ", ".join(f"{what} {of[-1]:.2f}" for what, of in times.items())
                print(f"{setup}, round {number}: {shown}", flush=True)
        away, before, rsync = (statistics.median(times[what]) for what in ("away", "before", "rsync"))
        found += [row("media_downtime", setup, away, rsync), row("media_before", setup, before, rsync)]
    print(f"\n{'metric':16} {'setup':32} {'seconds':>8} {'baseline':>9} {'ratio':>7}")
    for one in found:
        print(
            f"{one['metric']:16} {one['setup']:32} {one['value']:8.3f} {one['baseline_value']:9.3f} "
            f"{one['ratio']:7.3f}"
        )
    save("media.json", found)


if __name__ == "__main__":
    main()
