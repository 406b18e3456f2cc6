"""Processes that outlive their supervisor: who takes them over, who is left, how a test is rid of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
# Between two looks for the dead, in seconds.
LOOK = 0.1


class Stat(NamedTuple):
    """What /proc/PID/stat says (proc(5)); pid and start, in clock ticks since boot, name one process."""

    pid: int
    state: str
    parent: int
    session: int
    start: int

    @property
    def dead(self) -> bool:
        return self.state in "ZXx"


def stat(pid: int) -> Stat | None:
    with contextlib.suppress(OSError):
        # The name is in parentheses and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return Stat(pid, fields[0], int(fields[1]), int(fields[3]), int(fields[19]))
    return None


def processes() -> list[Stat]:
    """Every process of the machine, zombies too."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [found for pid in pids if (found := stat(pid))]


def alive(process: Stat) -> bool:
    """Whether this very process, and not another one with its pid, still runs."""
    now = stat(process.pid)
    return now is not None and now.start == process.start and not now.dead


def reap() -> None:
    """Takes leave of dead children that nobody here started.

    synvisor's children begin a session of their own (src/sys/fork.rs), and so do PostgreSQL's
    (utils/init/miscinit.c); what a test starts has the test's session, and is for its Popen to wait for.
    """
    mine, session = os.getpid(), os.getsid(0)
    for process in processes():
        if process.dead and process.parent == mine and process.session != session:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """While this lasts, orphans among our descendants become our children, and are reaped when they end."""
    libc = ctypes.CDLL(None, use_errno=True)

    def subreaper(on: int) -> None:
        if libc.prctl(PR_SET_CHILD_SUBREAPER, on, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")

    done = threading.Event()

    def watch() -> None:
        while not done.wait(LOOK):
            reap()

    subreaper(1)
    thread = threading.Thread(target=watch, name="reaper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        reap()
        subreaper(0)


def descriptors(pid: int) -> list[str]:
    """What each open descriptor of a process leads to."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return found


def holders(path: Path) -> list[Stat]:
    """The living processes that have this file open, or one below this directory.

    Of a deployment's state directory: its supervisor and every unit, by their logs; of the `lock` in it,
    whoever a new supervisor would have to take over or to wait for.
    """
    exact, below = str(path), f"{path}/"
    return [
        process
        for process in processes()
        if process.pid != os.getpid()
        and not process.dead
        and any(opened == exact or opened.startswith(below) for opened in descriptors(process.pid))
    ]


def end_holders(path: Path, seconds: float = 30) -> list[int]:
    """Kills whoever still holds it, and waits until nobody does; gives the pids, for tear-down."""
    ended: dict[int, Stat] = {}
    deadline = time.monotonic() + seconds
    while left := holders(path):
        for process in left:
            ended[process.pid] = process
            # Nothing that was seen to hold it may be mistaken for another process with its pid.
            if alive(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise AssertionError(f"{[process.pid for process in left]} hold {path} and do not end")
        time.sleep(0.05)
    return sorted(ended)
