"""What the proxies are loaded with, and what that cost them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import socket
import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.deployment import children, wait_for
from tests.support.fronts import program, with_libraries
from tests.support.toolchain import ROOT

from .homeserver import units
from .proxies import HOST, Proxy

LARGE = 50 * 1024 * 1024
# Of each request method, target, body; 64 users send them in turn.
MIX = Path(__file__).with_name("mix.tsv")
TICKS = os.sysconf("SC_CLK_TCK")
POLL = "GET /_matrix/client/v3/sync?since=s1&timeout=3600000 HTTP/1.1\r\n"


def tree(pid: int) -> set[int]:
    return {pid} | children(pid)


def cpu_seconds(pid: int) -> float:
    """utime and stime of a process and its descendants, each with all its threads (proc_pid_stat(5))."""
    fields = (Path(f"/proc/{one}/stat").read_text("utf-8").rpartition(")")[2].split() for one in tree(pid))
    return sum(int(of[11]) + int(of[12]) for of in fields) / TICKS


def pss(pid: int) -> float:
    """Memory of a process and its descendants in KiB, what is shared counted once."""
    return sum(
        int(line.split()[1])
        for one in tree(pid)
        for line in Path(f"/proc/{one}/smaps_rollup").read_text("utf-8").splitlines()
        if line.startswith("Pss:")
    )


class Backend:
    """What answers behind every proxy, and counts."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "counts"
        command = [ROOT / "target" / "backend" / "release" / "backend", directory, *units()]
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL)
        try:
            wait_for("the backend listens", lambda: True if self.path.exists() else None, 30)
        except BaseException:
            self.close()
            raise

    def counts(self) -> dict[str, int]:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(self.path))
            with asking.makefile("rb") as stream:
                found: dict[str, int] = json.loads(stream.read())
        return found

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


@dataclass(frozen=True)
class Wrk:
    """Keep-alive connections that ask again as soon as they were answered."""

    # As load.lua knows it.
    load: str
    connections: int
    # The name of what comes out, in microseconds of CPU time.
    metric: str
    p99: str | None = None
    tls: bool = False
    # Which of the backend's counters says how much was done, and how much of it is one request.
    counter: str = "answered"
    one: int = 1

    @property
    def setup(self) -> str:
        return f"{self.connections} connections"

    def measure(self, proxy: Proxy, backend: Backend, seconds: float) -> dict[str, float]:
        done, spent = backend.counts()[self.counter], cpu_seconds(proxy.pid)
        found = self.run(proxy, seconds)
        spent, done = cpu_seconds(proxy.pid) - spent, backend.counts()[self.counter] - done
        if done == 0:
            raise RuntimeError(f"nothing came through {proxy.name} in {seconds} s: nothing to compare")
        latency = {} if self.p99 is None else {self.p99: float(found["p99"])}
        return {self.metric: spent * 1e6 * self.one / done} | latency

    def run(self, proxy: Proxy, seconds: float) -> dict[str, Any]:
        path, script = program("wrk"), Path(__file__).with_name("load.lua")
        port, scheme = (proxy.tls_port, "https") if self.tls else (proxy.port, "http")
        options = ["-t1", f"-c{self.connections}", f"-d{math.ceil(seconds)}s", "--timeout", "60s"]
        done = subprocess.run(
            [str(path), *options, "-s", str(script), f"{scheme}://127.0.0.1:{port}"],
            env={**with_libraries(path), "LOAD": self.load, "MIX": str(MIX)},
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if found["errors"]:
            raise RuntimeError(f"requests by way of {proxy.name} failed: nothing to compare\n{done.stdout}")
        return found


@dataclass(frozen=True)
class Handshakes:
    """Connections for a full TLS handshake each and nothing else, one after the other."""

    context: ssl.SSLContext
    metric: str = "tls_handshake_cpu"
    tls: bool = True
    setup: str = "ECDSA P-256"

    def measure(self, proxy: Proxy, _: Backend, seconds: float) -> dict[str, float]:
        self.shake(proxy)
        spent, count, until = cpu_seconds(proxy.pid), 0, time.monotonic() + seconds
        while time.monotonic() < until:
            self.shake(proxy)
            count += 1
        return {self.metric: (cpu_seconds(proxy.pid) - spent) * 1e6 / count}

    def shake(self, proxy: Proxy) -> None:
        plain = socket.create_connection(("127.0.0.1", proxy.tls_port))
        with self.context.wrap_socket(plain, server_hostname=HOST) as client:
            assert (client.version(), client.session_reused) == ("TLSv1.3", False)
            # Its end is seen only by who has taken our last word of the handshake.
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass


@dataclass(frozen=True)
class Polls:
    """Clients that wait for an answer that does not come."""

    most: int = 9000
    metric: str = "memory_per_long_poll"
    tls: bool = False

    @property
    def count(self) -> int:
        """As many as descriptors allow: a proxy needs two for each."""
        return min(self.most, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 500) // 2)

    @property
    def setup(self) -> str:
        return f"{self.count} long-polls"

    def measure(self, proxy: Proxy, backend: Backend, _: float) -> dict[str, float]:
        # Its memory is to be that of somebody who has just been started.
        proxy.close()
        proxy.start()
        with contextlib.ExitStack() as stack:
            # Not every proxy tells the backend that a client has left; its end does.
            stack.callback(proxy.close)
            for number in range(10):
                self.ask(stack, proxy, number)
            self.settle(proxy, backend, 10)
            before = pss(proxy.pid)
            for number in range(10, self.count + 10):
                self.ask(stack, proxy, number)
            self.settle(proxy, backend, self.count + 10)
            return {self.metric: (pss(proxy.pid) - before) / self.count}

    @staticmethod
    def ask(stack: contextlib.ExitStack, proxy: Proxy, number: int) -> None:
        client = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
        client.sendall(f"{POLL}Host: {HOST}\r\nAuthorization: Bearer syt_{number}_x_y\r\n\r\n".encode())

    @staticmethod
    def settle(proxy: Proxy, backend: Backend, wanted: int) -> None:
        """All of them wait, nobody else does, and what follows that is done."""
        for _ in range(2):
            wait_for(
                f"{wanted} long-polls wait by way of {proxy.name}",
                lambda: True if backend.counts()["held"] == wanted else None,
                60,
            )
            time.sleep(1)
