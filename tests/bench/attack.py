"""Clients that hold on, and one that connects and resets, while others ask: what that is to the others."""

from __future__ import annotations

import contextlib
import socket
import statistics
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from .loads import Backend, Wrk
from .proxies import Synvisor

SLOW = 100
# Closing sends a reset.
RESET = struct.pack("ii", 1, 0)
# In a process of its own, whose work is not the load generator's.
FLOOD = """
import socket, sys
while True:
    client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    client.sendall(b"GET /health HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes.fromhex(sys.argv[2]))
    client.close()
"""


@contextlib.contextmanager
def under_attack(port: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(SLOW)]
        for client in clients:
            client.sendall(b"POST /_matrix/client/v3/createRoom HTTP/1.1\r\nHost: a\r\nX: ")
        over = threading.Event()

        def drip() -> None:
            while not over.wait(0.2):
                for client in clients:
                    # Who took too long has been let go.
                    with contextlib.suppress(OSError):
                        client.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        flood = subprocess.Popen([sys.executable, "-c", FLOOD, str(port), RESET.hex()])
        try:
            yield
        finally:
            flood.kill()
            flood.wait()
            over.set()
            dripping.join()


def measure(proxy: Synvisor, backend: Backend, rounds: int, seconds: float) -> dict[str, Any]:
    """A row; every request of the others has to succeed, or there is none."""
    load = Wrk("mix", 64, "cpu", p99="p99")
    alone, attacked = [], []
    for number in range(1, rounds + 1):
        alone.append(load.measure(proxy, backend, seconds)["p99"])
        with under_attack(proxy.port):
            attacked.append(load.measure(proxy, backend, seconds)["p99"])
        print(f"attack, round {number}: p99 {attacked[-1]:.0f} µs, undisturbed {alone[-1]:.0f}", flush=True)
    value, baseline = statistics.median(attacked), statistics.median(alone)
    return {
        "metric": "p99_small_under_attack",
        "unit": "µs",
        "setup": f"{SLOW} slow clients and a flood of resets",
        "value": round(value, 2),
        "baseline": "undisturbed",
        "baseline_value": round(baseline, 2),
        "ratio": round(value / baseline, 3),
    }
