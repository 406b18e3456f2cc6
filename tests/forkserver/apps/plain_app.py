"""An app without Twisted: does what its first argument says, and tells what it found."""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import threading
from pathlib import Path


class Remains:
    """What Python would take apart at its end."""

    def __del__(self) -> None:
        os.write(2, b"taken apart\n")


remains = Remains()


def facts() -> dict[str, object]:
    """What a process can see of itself."""
    return {
        "argv": sys.argv,
        "command": Path("/proc/self/cmdline").read_text(encoding="utf-8").rstrip("\0"),
        "environment": dict(os.environ),
        "environ": sorted(os.environ),
        "directory": os.getcwd(),
        "umask": os.umask(0),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "session": os.getsid(0) == os.getpid(),
        "parent": os.getppid(),
        "threads": threading.active_count(),
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "descriptors": {
            entry: os.readlink(f"/proc/self/fd/{entry}")
            for entry in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{entry}")
        },
    }


def hold() -> None:
    """Stands still in C."""
    threading.Event().wait()


def spin(until: str) -> None:
    """Runs in a circle until a file exists."""
    while not os.path.exists(until):
        pass


def main() -> None:
    # The last to be registered runs first.
    atexit.register(sys.stdout.write, "not flushed")
    atexit.register(print, "atexit ran", flush=True)
    what, *rest = sys.argv[1:]
    if what == "facts":
        print(json.dumps(facts()))
    elif what == "thread":
        threading.Timer(0.2, print, ["the thread has ended"]).start()
    elif what == "exit":
        sys.exit(int(rest[0]))
    elif what == "raise":
        raise RuntimeError("as ordered")
    elif what == "kill":
        os.kill(os.getpid(), int(rest[0]))
    elif what == "vanish":
        os._exit(0)
    elif what == "spin":
        threading.Thread(target=hold, daemon=True).start()
        print("spinning")
        spin(rest[0])
    elif what == "wait":
        print("waiting")
        signal.pause()
