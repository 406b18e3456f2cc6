"""Many processes in a row leave nothing behind: no descriptor, no process, no memory.

`FORKS=20000 target/venv/bin/python -m pytest tests/e2e/test_leaks.py` takes minutes; `make test` does fewer.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.deployment import Deployment, UnixConnection, children

from .test_forkserver import overlaid

FORKS = int(os.environ.get("FORKS", "200"))

# A worker with nothing of Synapse's in it: it says that it is ready, and answers what the supervisor asks.
STUB = """
import socket
import sys

import synapse.app.generic_worker as app

ANSWER = b"OK"


def main():
    import yaml
    from twisted.internet import protocol, reactor

    import synapse.app._base as base

    class Always(protocol.Protocol):
        def dataReceived(self, data):
            head = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\n" % len(ANSWER)
            self.transport.write(head + ANSWER)
            self.transport.loseConnection()

    factory = protocol.Factory.forProtocol(Always)
    with open(sys.argv[-1]) as file:
        settings = yaml.safe_load(file)
    for listener in settings["worker_listeners"]:
        reactor.listenUNIX(listener["path"], factory, mode=listener["mode"])
    # Not by Synapse's own function, which waits for a connection to Redis.
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.connect(base.sdnotify_sockaddr)
    reactor.callWhenRunning(notify.send, b"READY=1")
    reactor.run()


app.main = main
"""


@dataclass(frozen=True)
class Usage:
    descriptors: int
    threads: int
    # In KiB, without what is shared with other processes.
    memory: int


def usage(pid: int) -> Usage:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Usage(
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        int(status["Threads"]),
        int(status["RssAnon"].split()[0]),
    )


@pytest.mark.timeout(3600)
def test_many_forks_leave_nothing() -> None:
    home = Deployment("generic = 1")
    try:
        home.venv = overlaid(home.venv, home.directory / "venv", "import stub")
        (next((home.venv / "lib").glob("python3.*/site-packages")) / "stub.py").write_text(STUB)
        home.write()
        home.start().wait_ready()
        assert home.process
        watched = {"supervisor": home.process.pid, "fork server": home.unit("forkserver")["pid"]}
        control = UnixConnection(home.run / "control.sock", timeout=60)

        def restart(times: int) -> None:
            for _ in range(times):
                control.request("POST", "/v1/restart", json.dumps({"units": ["generic-1"]}))
                response = control.getresponse()
                answer = json.loads(response.read())
                assert answer["ok"], answer

        # What is allocated once, and what grows up to a bound, is there after the first of them.
        restart(FORKS // 4)
        before = {name: usage(pid) for name, pid in watched.items()}
        family = len(children(home.process.pid))
        restart(FORKS)
        after = {name: usage(pid) for name, pid in watched.items()}
        print(f"{FORKS} restarts: before {before}, after {after}")
        assert home.unit("generic-1")["incarnation"] > FORKS
        assert home.unit("generic-1")["made"] == "forked"
        assert len(children(home.process.pid)) == family
        for name in watched:
            assert after[name].descriptors == before[name].descriptors, name
            assert after[name].threads == before[name].threads, name
            # Allocators settle far below that; a leak of some hundred bytes a fork is seen by `make soak`.
            assert after[name].memory - before[name].memory < max(2_048, FORKS // 4), name
    finally:
        home.close()
