"""`make bench`: synvisor against the same configuration files started plainly by a shell loop, in turns.

Both sides have a database with its schema in place and a Redis of their own, which are not measured. What is
written to target/bench/restart.json is the median of the rounds; each round is printed, since no machine is quiet.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.deployment import LIVELY, Deployment, children, command_line, over_unix_socket, wait_for
from tests.support.toolchain import ROOT, prepare

from .services import Services, unprivileged

SETUP = "one-of-each"
# Between two looks at whether everything is ready, in seconds; the same for both sides.
LOOK = 0.05
# Garbage collection and first housekeeping come after READY; then memory is compared.
SETTLE = 5.0


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


def look_until(ready: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise RuntimeError("not ready in time")
        time.sleep(LOOK)


class Synvisor:
    """The deployment under synvisor."""

    def __init__(self, services: Services) -> None:
        self.deployment = Deployment(f'preset = "{SETUP}"', services=services.toml(), synapse=LIVELY)

    def ready(self) -> bool:
        with contextlib.suppress(OSError):
            status, body = over_unix_socket(self.deployment.run / "control.sock", "GET", "/v1/status")
            return status == 200 and json.loads(body)["state"] == "ready"
        return False

    def round(self) -> dict[str, float]:
        begun = time.monotonic()
        self.deployment.start()
        look_until(self.ready)
        measured = {"cold_start": time.monotonic() - begun}
        time.sleep(SETTLE)
        process = self.deployment.process
        assert process
        ours = children(process.pid) | {process.pid}
        router = next(pid for pid in ours if command_line(pid).startswith("synvisor router"))
        measured |= {"memory_pss": pss(ours), "supervisor_rss": rss(process.pid), "router_rss": rss(router)}
        self.deployment.stop()
        return measured


class Plain:
    """The same files, started by a shell."""

    def __init__(self, services: Services) -> None:
        # One run under synvisor writes the files and brings the schema into place.
        self.deployment = Deployment(f'preset = "{SETUP}"', services=services.toml(), synapse=LIVELY)
        self.deployment.start().wait_ready(300)
        self.deployment.stop()
        config = self.deployment.state / "config"
        self.units = sorted(
            path.stem for path in config.glob("*.yaml") if not path.name.endswith(".log.yaml")
        )
        self.config = config

    def shell(self, script: str) -> subprocess.Popen[bytes]:
        with (self.deployment.directory / "plain.log").open("ab") as log:
            return subprocess.Popen(
                ["sh", "-c", script, "sh", str(self.deployment.venv / "bin/python"), str(self.config)],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.deployment.state,
                **unprivileged(),
            )

    def answers(self, unit: str, path: str) -> str | None:
        with contextlib.suppress(OSError):
            socket = self.deployment.run / "private" / f"{unit}.sock"
            status, body = over_unix_socket(socket, "GET", path)
            return body.decode() if status == 200 else None
        return None

    def connected(self, unit: str) -> bool:
        metrics = self.answers(unit, "/_synapse/metrics") or ""
        name = "synapse_replication_tcp_resource_total_connections"
        return any(
            line.startswith(name) and float(line.rpartition(" ")[2]) >= 1 for line in metrics.splitlines()
        )

    def round(self) -> dict[str, float]:
        begun = time.monotonic()
        main = self.shell('exec "$1" -m synapse.app.homeserver -c "$2/main.yaml"')
        look_until(lambda: self.answers("main", "/health") is not None)
        workers = self.shell(
            'for file in "$2"/*.yaml; do case "$file" in *.log.yaml|*/main.yaml) continue;; esac; '
            '"$1" -m synapse.app.generic_worker -c "$file" & done; wait'
        )
        waiting = list(self.units)

        def ready() -> bool:
            while waiting and self.connected(waiting[0]):
                waiting.pop(0)
            return not waiting

        look_until(ready)
        measured = {"cold_start": time.monotonic() - begun}
        time.sleep(SETTLE)
        processes = {main.pid} | children(workers.pid)
        measured["memory_pss"] = pss(processes)
        for pid in processes:
            os.kill(pid, signal.SIGTERM)
        for shell in (main, workers):
            shell.wait(timeout=120)
        gone = lambda: None if any(Path(f"/proc/{pid}").exists() for pid in processes) else True  # noqa: E731
        wait_for("plain processes gone", gone)
        return measured


@contextlib.contextmanager
def sides() -> Iterator[tuple[Synvisor, Plain]]:
    with contextlib.ExitStack() as stack:
        venv = prepare()
        services = []
        for _ in range(2):
            services.append(Services(venv))
            stack.callback(services[-1].close)
        synvisor = Synvisor(services[0])
        stack.callback(synvisor.deployment.close)
        print("preparing both databases", flush=True)
        synvisor.deployment.start().wait_ready(300)
        synvisor.deployment.stop()
        plain = Plain(services[1])
        stack.callback(plain.deployment.close)
        yield synvisor, plain


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    with sides() as (synvisor, plain):
        for number in range(1, rounds + 1):
            # Whoever goes second finds warmer caches: the order alternates.
            turns = [(synvisor, ours), (plain, theirs)]
            for side, results in turns if number % 2 else reversed(turns):
                results.append(side.round())
                shown = ", ".join(f"{name} {value:.2f}" for name, value in results[-1].items())
                print(f"round {number} {type(side).__name__.lower():9} {shown}", flush=True)

    rows = []
    units = {"cold_start": "s", "memory_pss": "MiB", "supervisor_rss": "MiB", "router_rss": "MiB"}
    print(f"\n{'metric':16} {'unit':4} {'synvisor':>10} {'plain':>10} {'ratio':>7}   (medians, {SETUP})")
    for metric, unit in units.items():
        value = statistics.median(result[metric] for result in ours)
        others = [result[metric] for result in theirs if metric in result]
        baseline = statistics.median(others) if others else None
        ratio = value / baseline if baseline else None
        rows.append(
            {
                "metric": metric,
                "unit": unit,
                "setup": SETUP,
                "value": round(value, 3),
                "baseline": "plain",
                "baseline_value": round(baseline, 3) if baseline else None,
                "ratio": round(ratio, 3) if ratio else None,
            }
        )
        shown = f"{baseline:10.2f} {ratio:7.2f}" if baseline and ratio else f"{'-':>10} {'-':>7}"
        print(f"{metric:16} {unit:4} {value:10.2f} {shown}")
    target = ROOT / "target" / "bench" / "restart.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {target}")


if __name__ == "__main__":
    main()
