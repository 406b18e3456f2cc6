"""What a deployment consists of at a moment, to be compared: processes, descriptors, files, memory."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from .deployment import Deployment
from .orphans import Stat, alive, descriptors, processes

# Between two looks at the processes, in seconds.
LOOK = 0.1
# In the state directory: what grows by design, or belongs to PostgreSQL, Redis and Synapse.
GROWING = ("logs", "generations", "postgres", "redis", "media_store")


def named(home: Deployment) -> dict[str, list[Stat]]:
    """The living processes of Synapse by the configuration that they run with, and so by worker_name."""
    before, after = f"{home.state}/config/".encode(), b".yaml"
    found: dict[str, list[Stat]] = {}
    for process in processes():
        if process.dead:
            continue
        try:
            line = Path(f"/proc/{process.pid}/cmdline").read_bytes().rstrip(b"\0")
        except OSError:
            continue
        # Both `python -m … -c FILE` and the title of a forked process end so.
        words = line.replace(b"\0", b" ").split()
        if len(words) > 1 and words[-2] == b"-c" and words[-1].startswith(before):
            name = words[-1].removeprefix(before).removesuffix(after).decode()
            found.setdefault(name, []).append(process)
    return found


def doubles(home: Deployment) -> list[str]:
    """Names under which two processes live at this moment, a sentence each."""
    return [
        f"{name} runs twice: pids {', '.join(str(process.pid) for process in found)}"
        for name, found in named(home).items()
        # Seen one after the other they may have been predecessor and successor; both still live now.
        if len(found) > 1 and sum(alive(process) for process in found) > 1
    ]


class Watch(threading.Thread):
    """Looks all the time for two processes of one name."""

    def __init__(self, home: Deployment) -> None:
        super().__init__(name="watch", daemon=True)
        self.home = home
        self.found: set[str] = set()
        self.looks = 0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(LOOK):
            self.found.update(doubles(self.home))
            self.looks += 1

    def stop(self) -> None:
        self.done.set()
        self.join()


def listening() -> set[str]:
    """The inodes of sockets that accept connections, as /proc/PID/fd names them."""
    inodes = set()
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        fields = line.split()
        # __SO_ACCEPTCON of linux/net.h
        if int(fields[3], 16) & 0x10000:
            inodes.add(f"socket:[{fields[6]}]")
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            # TCP_LISTEN of net/tcp_states.h
            if fields[3] == "0A":
                inodes.add(f"socket:[{fields[9]}]")
    return inodes


def opened(pid: int) -> Counter[str]:
    """How many descriptors of each kind a process has."""
    accepting = listening()

    def kind(target: str) -> str:
        if target.startswith("socket:"):
            return "listening socket" if target in accepting else "socket"
        if target.startswith("pipe:"):
            return "pipe"
        return target if target.startswith(("anon_inode:", "/dev/")) else "file"

    return Counter(kind(target) for target in descriptors(pid))


def files(home: Deployment) -> Counter[str]:
    """What lies in the run directory, and in the state directory where nothing grows by design."""
    found: Counter[str] = Counter()
    for top in (home.run, home.state):
        for path in top.rglob("*"):
            relative = path.relative_to(top)
            if top == home.state and relative.parts[0] in GROWING:
                continue
            # Each router has a control socket of its own, by its incarnation.
            found[re.sub(r"router-\d+\.sock$", "router-N.sock", f"{top.name}/{relative}")] += 1
    return found


def private_memory(pid: int) -> int:
    """Memory that is a process's own, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0])


def differences(before: Counter[str], after: Counter[str], free: frozenset[str] = frozenset()) -> list[str]:
    """What there is more or less of, but for kinds that are `free` to change."""
    kinds = sorted((before.keys() | after.keys()) - free)
    return [
        f"{kind}: {before[kind]} before, {after[kind]} after" for kind in kinds if before[kind] != after[kind]
    ]


def settled(probe: Callable[[], list[str]], seconds: float = 30) -> list[str]:
    """The last answer of a probe that was asked until it had nothing to say, or for so long."""
    waiting = threading.Event()
    for _ in range(int(seconds / LOOK)):
        if not (said := probe()):
            return []
        waiting.wait(LOOK)
    return said
