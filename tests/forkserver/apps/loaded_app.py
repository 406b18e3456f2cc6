"""Synapse, which on SIGUSR1 tells what this process has loaded that the fork server had not."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable


def main() -> None:
    before = set(sys.modules)

    def tell(number: int, frame: object) -> None:
        names = " ".join(sorted(set(sys.modules) - before))
        os.write(2, f"loaded late: {names}.\n".encode())

    signal.signal(signal.SIGUSR1, tell)
    app = importlib.import_module(os.environ["SYNAPSE_APP"])
    start: Callable[[], None] = app.main
    start()
