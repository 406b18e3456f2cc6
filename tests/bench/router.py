"""`make bench-router`: what a request costs synvisor's router, and what it costs nginx, HAProxy and Caddy.

The proxies take turns within one run, all on one CPU together with load and backend. To wake up another
virtual CPU would cost more than what is measured. The medians are written to target/bench/router.json.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import resource
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.fronts import program, with_libraries
from tests.support.generated import Certificates

from . import attack
from .homeserver import groups
from .loads import LARGE, MIX, Backend, Handshakes, Polls, Wrk
from .perf import profile
from .proxies import HOST, Caddy, HAProxy, HAProxyTuned, Nginx, Proxy, StreamingNginx, Synvisor
from .rows import save

UNITS = {"p99_small": "µs", "memory_per_long_poll": "KiB"}
# At most so much of what the other one takes, or so much by itself (KiB).
AIMS = {
    ("cpu_per_request_small", "haproxy"): 0.9,
    ("cpu_per_request_small", "nginx"): 0.8,
    ("cpu_per_request_small", "caddy"): 0.33,
    ("cpu_50m_down_tuned", "haproxy"): 1.0,
    ("cpu_50m_up_tuned", "haproxy"): 1.0,
    ("tls_handshake_cpu", "haproxy"): 0.55,
    ("tls_handshake_cpu", "nginx"): 0.55,
    ("p99_small", "haproxy"): 1.0,
}
LEAST_MEMORY = 15
# A part in which only ours takes part, against itself.
ATTACK = "attack"

Part = Wrk | Handshakes | Polls
Results = dict[str, dict[str, list[float]]]


def parts(context: ssl.SSLContext) -> dict[str, Part]:
    return {
        "small": Wrk("mix", 64, "cpu_per_request_small", p99="p99_small"),
        "64k": Wrk("64k", 16, "cpu_64k"),
        "50m-down": Wrk("50m", 4, "cpu_50m_down", counter="sent", one=LARGE),
        "50m-up": Wrk("50m-up", 4, "cpu_50m_up", counter="received", one=LARGE),
        "tls-handshake": Handshakes(context),
        "tls-64k": Wrk("64k", 16, "tls_64k_cpu", tls=True),
        "long-polls": Polls(),
    }


def kinds(part: str) -> list[type[Proxy]]:
    """Who takes part: each in the form that is best for it."""
    tuned = [HAProxyTuned] if part.startswith("50m") else []
    return [Synvisor, StreamingNginx if "64k" in part or tuned else Nginx, HAProxy, Caddy, *tuned]


def check_routes(proxies: list[Proxy]) -> None:
    """Every proxy sends each request of the mixture where synvisor does: to that unit, or one like it."""
    of_unit = {unit: name for name, members in groups().items() for unit in members}
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for proxy in proxies:
        for line in MIX.read_text(encoding="utf-8").splitlines():
            method, target, body = line.split("\t")
            client = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
            with contextlib.closing(client):
                client.request(
                    method, target, body or None, {"Host": HOST, "Authorization": "Bearer syt_a_b_c"}
                )
                unit = json.loads(client.getresponse().read())["unit"]
            found[f"{method} {target}"][proxy.name] = of_unit[unit]
    for request, by in found.items():
        if len(set(by.values())) > 1:
            raise RuntimeError(
                f"the proxies do not route alike, so that there is nothing to compare: {request}: {by}"
            )


@contextlib.contextmanager
def started(proxies: list[Proxy]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for proxy in proxies:
            stack.callback(proxy.close)
            proxy.start()
        yield


@dataclass
class Turns:
    """How often each proxy has its turn, and how long one is."""

    backend: Backend
    rounds: int
    seconds: float
    profiled: bool

    def measure(self, name: str, part: Part, proxies: list[Proxy]) -> Results:
        """Of each proxy and metric what was found."""
        results: Results = defaultdict(lambda: defaultdict(list))
        with started(proxies):
            check_routes(proxies)
            able = [proxy for proxy in proxies if proxy.tls_port is not None or not part.tls]
            for proxy in proxies:
                if proxy not in able:
                    print(f"{name}: {proxy.name} speaks no TLS yet and is left out", flush=True)
            # Memory does not depend on who else runs, and takes long to fill.
            for number in range(1, (1 if isinstance(part, Polls) else self.rounds) + 1):
                # Whoever comes later finds warmer caches: the order moves on.
                first = number % len(able)
                for proxy in able[first:] + able[:first]:
                    found = part.measure(proxy, self.backend, self.seconds)
                    for metric, value in found.items():
                        results[proxy.name][metric].append(value)
                    shown = ", ".join(f"{metric} {value:.1f}" for metric, value in found.items())
                    print(f"{name}, round {number}, {proxy.name}: {shown}", flush=True)
            if self.profiled and not isinstance(part, Polls):
                for ours in (proxy for proxy in able if proxy.name == Synvisor.name):
                    profile(
                        ours.pid, name, self.seconds, partial(part.measure, ours, self.backend, self.seconds)
                    )
        return results


def rows(setup: str, results: Results) -> list[dict[str, Any]]:
    """One row for each metric and baseline, of the medians."""
    medians = {
        name: {metric: statistics.median(values) for metric, values in of.items()}
        for name, of in results.items()
    }
    ours = medians.pop(Synvisor.name, {})
    found = []
    for name, theirs in medians.items():
        for metric, other in theirs.items():
            if (value := ours.get(metric)) is None:
                continue
            tuned = name == HAProxyTuned.name
            found.append(
                {
                    "metric": f"{metric}_tuned" if tuned else metric,
                    "unit": UNITS.get(metric, "µs"),
                    "setup": setup,
                    "value": round(value, 2),
                    "baseline": HAProxy.name if tuned else name,
                    "baseline_value": round(other, 2),
                    "ratio": round(value / other, 3),
                }
            )
    return found


def spreads(results: dict[str, Results]) -> None:
    print(f"\n{'part':14} {'metric':22} {'proxy':14} {'median':>10} {'min':>10} {'max':>10}")
    for part, of in results.items():
        for proxy, metrics in of.items():
            for metric, values in metrics.items():
                figures = (statistics.median(values), min(values), max(values))
                print(f"{part:14} {metric:22} {proxy:14}" + "".join(f" {figure:10.1f}" for figure in figures))


def verdicts(found: list[dict[str, Any]]) -> None:
    print(f"\n{'metric':22} {'unit':4} {'synvisor':>10}  {'baseline':9} {'':>10} {'ratio':>6}  aim")
    for row in found:
        aim = AIMS.get((row["metric"], row["baseline"]))
        if row["metric"] == Polls.metric:
            judged = f"at most {LEAST_MEMORY} KiB: {'met' if row['value'] <= LEAST_MEMORY else 'missed'}"
        elif aim is None:
            judged = ""
        else:
            judged = f"at most {aim}: {'met' if row['ratio'] <= aim else 'missed'}"
        print(
            f"{row['metric']:22} {row['unit']:4} {row['value']:10.1f}  {row['baseline']:9} "
            f"{row['baseline_value']:10.1f} {row['ratio']:6.2f}  {judged}"
        )


def said(command: list[str]) -> str:
    """The first line that a program prints of itself."""
    path = Path(command[0])
    done = subprocess.run(command, env=with_libraries(path), capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines()[0]


def environment(cpu: int) -> None:
    models = [
        line
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if line.startswith("model name")
    ]
    model = models[0].partition(":")[2].strip() if models else platform.machine()
    print(f"{model}, {os.cpu_count()} CPUs, all of this on number {cpu}; Linux {platform.release()}")
    asked = {"nginx": "-v", "haproxy": "-v", "caddy": "version", "wrk": "-v"}
    for name, flag in asked.items():
        print(f"{name}: {said([str(program(name)), flag])}")
    print(
        f"{said(['openssl', 'version'])}; at most {resource.getrlimit(resource.RLIMIT_NOFILE)[1]} descriptors"
    )
    print(f"load of the machine: {', '.join(f'{load:.1f}' for load in os.getloadavg())}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-router")
    # Only their names matter here.
    names = [*parts(ssl.create_default_context()), ATTACK]
    parser.add_argument("--only", action="append", choices=names, help="only this part (may be repeated)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each proxy (5)")
    parser.add_argument("--seconds", type=float, default=3, help="of load for each turn (3)")
    parser.add_argument("--profile", action="store_true", help="show by perf where synvisor's CPU time goes")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="where all of it runs")
    arguments = parser.parse_args()
    # A proxy that lives when this is ended would live on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.sched_setaffinity(0, {arguments.cpu})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    environment(arguments.cpu)
    results, found = {}, []
    with contextlib.ExitStack() as stack:
        certificates = Certificates([HOST])
        stack.callback(certificates.close)
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="svbench", dir="/tmp")))
        backend = Backend(sockets)
        stack.callback(backend.close)
        turns = Turns(backend, arguments.rounds, arguments.seconds, arguments.profile)
        live = certificates.directory / "live" / HOST
        for name, part in parts(certificates.context).items():
            if name not in (arguments.only or names):
                continue
            proxies = [kind(sockets, live) for kind in kinds(name)]
            results[name] = turns.measure(name, part, proxies)
            found += rows(part.setup, results[name])
        if ATTACK in (arguments.only or names):
            ours = Synvisor(sockets, live)
            with started([ours]):
                found.append(attack.measure(ours, backend, arguments.rounds, arguments.seconds))
    spreads(results)
    verdicts(found)
    print(f"load of the machine at the end: {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
    save("router.json", found)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted: nothing was written, and nothing is left running")
