"""Whoever runs the same Synapse processes from the same files: synvisor, a shell loop, supervisord."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.deployment import (
    LIVELY,
    ROOT_USER,
    UNPRIVILEGED,
    Deployment,
    children,
    command_line,
    over_unix_socket,
)
from tests.support.toolchain import supervisord

from .services import Services, unprivileged

# Units of synvisor that no other side has.
OTHERS = ("forkserver", "router")
# Between two looks at whether everything is ready, in seconds; the same for all sides.
LOOK = 0.05
# What is READY is connected to Redis, for every side: before, a worker would serve what is stale.
CONNECTED = "synapse_replication_tcp_resource_total_connections"


def look_until(ready: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError("not ready in time")
        time.sleep(LOOK)


def pss(pids: set[int]) -> float:
    """Memory of processes with shared pages counted by their share, in MiB."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def rss(pid: int) -> float:
    """Resident memory of one process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


class Side(ABC):
    """One way to run the deployment; every call returns when everything is ready, or gone."""

    def __init__(self, services: Services, workers: str) -> None:
        self.deployment = Deployment(workers, services=services.toml(), synapse=LIVELY)
        # One run under synvisor writes the files and brings the schema into place.
        self.deployment.start().wait_ready(900)
        self.deployment.stop()

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def pids(self) -> dict[str, int]:
        """The processes of Synapse by unit."""

    @abstractmethod
    def restart(self, units: list[str]) -> None:
        """All at once."""

    @abstractmethod
    def wait_ready(self, units: list[str], old: set[int]) -> None:
        """Until these are ready in other processes than the old ones."""

    @abstractmethod
    def memory(self) -> dict[str, float]: ...

    def crash(self, unit: str) -> None:
        pid = self.pids()[unit]
        os.kill(pid, signal.SIGKILL)
        self.wait_ready([unit], {pid})

    def close(self) -> None:
        self.deployment.close()


class Synvisor(Side):
    def ask(self) -> dict[str, Any] | None:
        with contextlib.suppress(OSError):
            status, body = over_unix_socket(self.deployment.run / "control.sock", "GET", "/v1/status")
            if status == 200:
                answer: dict[str, Any] = json.loads(body)
                return answer
        return None

    def start(self) -> None:
        self.deployment.start()
        look_until(lambda: (status := self.ask()) is not None and status["state"] == "ready")

    def stop(self) -> None:
        self.deployment.stop()

    def units(self) -> dict[str, dict[str, Any]]:
        status = self.ask()
        assert status, "the supervisor does not answer"
        return {unit["name"]: unit for unit in status["units"] if unit["name"] not in OTHERS and unit["pid"]}

    def pids(self) -> dict[str, int]:
        return {name: unit["pid"] for name, unit in self.units().items()}

    def restart(self, units: list[str]) -> None:
        every = set(units) == set(self.pids())
        done = self.deployment.cli("restart", *(["--all", "--at-once"] if every else units), timeout=600)
        assert done.returncode == 0, done

    def wait_ready(self, units: list[str], old: set[int]) -> None:
        def ready() -> bool:
            now = self.units()
            return all(
                unit in now and now[unit]["state"] == "ready" and now[unit]["pid"] not in old
                for unit in units
            )

        look_until(ready)

    def memory(self) -> dict[str, float]:
        process = self.deployment.process
        assert process
        ours = children(process.pid) | {process.pid}
        router = next(pid for pid in ours if command_line(pid).startswith("synvisor router"))
        return {"memory_pss": pss(ours), "supervisor_rss": rss(process.pid), "router_rss": rss(router)}


class Foreign(Side):
    """Processes that nobody is asked about: each is looked at itself."""

    def __init__(self, services: Services, workers: str) -> None:
        super().__init__(services, workers)
        self.config = self.deployment.state / "config"
        self.names = sorted(
            path.stem for path in self.config.glob("*.yaml") if not path.name.endswith(".log.yaml")
        )
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, unit: str) -> list[str]:
        app = "homeserver" if unit == "main" else "generic_worker"
        python = self.deployment.venv / "bin" / "python"
        return [str(python), "-m", f"synapse.app.{app}", "-c", str(self.config / f"{unit}.yaml")]

    def pids(self) -> dict[str, int]:
        assert self.process
        found = {}
        for pid in children(self.process.pid):
            words = command_line(pid).split()
            if words[1:2] == ["-m"] and words[2].startswith("synapse.app."):
                found[Path(words[-1]).stem] = pid
        return found

    def answers(self, unit: str) -> bool:
        socket = self.deployment.run / "private" / f"{unit}.sock"
        with contextlib.suppress(OSError):
            status, body = over_unix_socket(socket, "GET", "/_synapse/metrics")
            lines = [line for line in body.decode().splitlines() if line.startswith(CONNECTED)]
            return status == 200 and any(float(line.rpartition(" ")[2]) >= 1 for line in lines)
        return False

    def wait_ready(self, units: list[str], old: set[int]) -> None:
        look_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in old))
        waiting = list(units)

        def ready() -> bool:
            while waiting and self.answers(waiting[0]):
                waiting.pop(0)
            return not waiting

        look_until(ready)

    def spawn(self, command: list[str], **options: Any) -> None:
        with (self.deployment.directory / "foreign.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.deployment.state,
                **options,
            )

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.stop()
        super().close()


class Plain(Foreign):
    """A shell that starts whatever ends again."""

    def start(self) -> None:
        # A session each, as synvisor gives: a kernel that schedules by session (sched_autogroup) would give
        # all of one session together the share of one process as soon as the machine is busy.
        loop = "setsid sh -c 'while :; do \"$@\"; done' sh"
        lines = [f"{loop} {' '.join(self.command(unit))} &" for unit in self.names]
        self.spawn(["sh", "-c", "\n".join([*lines, "wait"])], **unprivileged())
        self.wait_ready(self.names, set())

    def stop(self) -> None:
        assert self.process
        every = children(self.process.pid) | {self.process.pid}
        synapse = set(self.pids().values())
        for pid in [*(every - synapse), *synapse]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self.process.wait(timeout=60)
        look_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in every))
        self.process = None

    def restart(self, units: list[str]) -> None:
        pids = self.pids()
        old = {pids[unit] for unit in units}
        for pid in old:
            os.kill(pid, signal.SIGTERM)
        self.wait_ready(units, old)

    def memory(self) -> dict[str, float]:
        return {"memory_pss": pss(set(self.pids().values()))}


class Supervisord(Foreign):
    """Debian's supervisord, told that what runs is started, and to start again whatever ends."""

    def __init__(self, services: Services, workers: str) -> None:
        super().__init__(services, workers)
        self.daemon, self.control = supervisord()
        directory = self.deployment.directory
        self.socket, self.file = directory / "supervisor.sock", directory / "supervisord.conf"
        user = f"user={UNPRIVILEGED}\n" if ROOT_USER else ""
        head = f"""[supervisord]
nodaemon=true
logfile={directory}/supervisord.log
pidfile={directory}/supervisord.pid
{"user=root" if ROOT_USER else ""}
[unix_http_server]
file={self.socket}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{self.socket}
"""
        programs = [
            f"""[program:{unit}]
command={" ".join(self.command(unit))}
directory={self.deployment.state}
{user}autorestart=true
startsecs=0
stopwaitsecs=60
redirect_stderr=true
stdout_logfile={directory}/{unit}.supervisord.log
"""
            for unit in self.names
        ]
        self.file.write_text(head + "".join(programs), encoding="utf-8")

    def start(self) -> None:
        self.spawn([self.daemon, "-c", str(self.file)])
        self.wait_ready(self.names, set())

    def stop(self) -> None:
        assert self.process
        every = children(self.process.pid)
        self.process.terminate()
        self.process.wait(timeout=120)
        look_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in every))
        self.process = None

    def restart(self, units: list[str]) -> None:
        pids = self.pids()
        old = {pids[unit] for unit in units}
        which = ["all"] if len(units) == len(self.names) else units
        command = [self.control, "-c", str(self.file), "restart", *which]
        subprocess.run(command, check=True, capture_output=True)
        self.wait_ready(units, old)

    def memory(self) -> dict[str, float]:
        assert self.process
        ours = {self.process.pid} | set(self.pids().values())
        return {"memory_pss": pss(ours), "supervisor_rss": rss(self.process.pid)}


BASELINES: dict[str, type[Foreign]] = {"plain": Plain, "supervisord": Supervisord}
