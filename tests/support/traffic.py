"""The load generator as a process of its own, seen from a test, a benchmark or a soak."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from .toolchain import ROOT, prepare

# Beside LIVELY of deployment.py: what Synapse (config/ratelimiting.py, 1.163) would refuse such users with
# 429. Goes before LIVELY, which ends in a table.
UNLIMITED = """
rc_joins_per_room = { per_second = 1000, burst_count = 1000 }
rc_room_creation = { per_second = 1000, burst_count = 1000 }
rc_profile = { per_second = 1000, burst_count = 1000 }
"""

Report = dict[str, Any]


class Traffic:
    """Users on a homeserver, from the moment that this is made until `stop`."""

    def __init__(self, port: int, *options: str, log: Path | None = None) -> None:
        python = prepare("client") / "bin" / "python"
        command = [str(python), "-m", "tests.support.load", str(port), *options]
        with (log or Path("/dev/null")).open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors if log else None,
                text=True,
            )
        self.expect("ready")

    def expect(self, word: str) -> Report:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"the load generator ended with {self.process.wait()} before it said {word!r}"
        answer: Report = json.loads(line)
        assert word in answer, answer
        return answer

    def tell(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def phase(self, name: str) -> None:
        """Says what is being done to the server from now on."""
        self.tell(f"phase {name}")
        self.expect("phase")

    def breathe(self) -> None:
        """Waits until each kind of operation, begun from now on, has succeeded."""
        self.tell("breathe")
        self.expect("breathe")

    def stop(self) -> Report:
        """Ends the load, waits until what was accepted has arrived, and gives the report."""
        self.tell("stop")
        return self.expect("requests")

    def __enter__(self) -> Traffic:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None and error is not None:
            self.process.kill()
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=60)
