"""Where a process spends its CPU time, as perf sees it; nothing is measured meanwhile."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

from tests.support.toolchain import ROOT

DATA = ROOT / "target" / "bench" / "router.perf"


def profile(pid: int, title: str, seconds: float, load: Callable[[], object]) -> None:
    if (perf := shutil.which("perf")) is None:
        print("no profile: perf is missing; install it (apt-get install linux-perf)")
        return
    DATA.parent.mkdir(parents=True, exist_ok=True)
    # A virtual machine may have no counters of its own.
    recorded = ["record", "--quiet", "-e", "cpu-clock", "-g", "-o", str(DATA), "-p", str(pid)]
    recording = subprocess.Popen([perf, *recorded, "--", "sleep", str(seconds)])
    try:
        load()
    finally:
        recording.wait()
    for sort, least in (("dso", 1.0), ("symbol", 0.7)):
        shown = ["--no-children", "-g", "none", "--sort", sort, "--percent-limit", str(least)]
        asked = [perf, "report", "--stdio", "-i", str(DATA), *shown]
        printed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
        lines = [line for line in printed.splitlines() if line.strip() and not line.startswith("#")]
        print("\n".join([f"{title}, CPU time by {sort}:", *lines]), flush=True)
    print(f"  with callers: perf report -i {DATA}")
