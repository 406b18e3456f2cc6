"""`make bench`: how long a reload takes for each class of edit, against a restart of the whole service.

The medians, and what planning costs for 200 workers, are written to target/bench/plan.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections import defaultdict
from typing import Any

from tests.support.deployment import LIVELY, Deployment, deployed
from tests.support.toolchain import ROOT

from .rows import save

SETUP = "one-of-each"
WORKERS = 'preset = "one-of-each"'
# What is written in [workers], above the first table, below [supervisor] and above all of [synapse].
EDITS = {
    "comment": {"top": "# nothing"},
    "log_level": {"extra": '[units.typing-1]\nlog_level = "WARNING"'},
    "trusted_proxies": {"top": 'trusted_proxies = ["127.0.0.0/8", "10.0.0.0/8"]'},
    "reader_added": {"workers": f"{WORKERS}\ngeneric = 2"},
    "setting_of_one": {"extra": "[units.generic-1.environment]\nA = 'b'"},
    "setting_of_media": {"synapse": 'max_upload_size = "20M"'},
    "setting_of_all": {"synapse": "turn_allow_guests = false"},
    "sender_added": {"workers": f"{WORKERS}\nfederation_sender = 2"},
    "stream_writer_moved": {"workers": f"{WORKERS}\ntyping = 0"},
}


def edit(home: Deployment, changes: dict[str, str]) -> None:
    home.workers, home.top = changes.get("workers", WORKERS), changes.get("top", "")
    home.extra, home.synapse = changes.get("extra", ""), f"{changes.get('synapse', '')}\n{LIVELY}"
    home.write()


def timed(home: Deployment) -> float:
    begun = time.monotonic()
    done = home.cli("reload", timeout=300)
    assert done.returncode == 0, done
    return time.monotonic() - begun


def reloads(rounds: int) -> dict[str, list[float]]:
    """Seconds of each class, there and back; and of a restart of the service."""
    found: dict[str, list[float]] = defaultdict(list)
    with deployed(WORKERS) as home:
        for number in range(1, rounds + 1):
            for name, changes in EDITS.items():
                for wanted in (changes, {}):
                    edit(home, wanted)
                    found[name].append(timed(home))
            begun = time.monotonic()
            home.stop()
            home.start().wait_ready()
            found["service"].append(time.monotonic() - begun)
            shown = ", ".join(f"{name} {statistics.median(times):.2f}" for name, times in found.items())
            print(f"{SETUP}, round {number}: {shown}", flush=True)
    return found


def planning() -> dict[str, float]:
    command = ["cargo", "bench", "--quiet", "--locked", "--bench", "plan"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def row(metric: str, setup: str, value: float, other: float | None) -> dict[str, Any]:
    return {
        "metric": metric,
        "unit": "s",
        "setup": setup,
        "value": round(value, 4),
        "baseline": None if other is None else "restart of the service",
        "baseline_value": None if other is None else round(other, 4),
        "ratio": None if other is None else round(value / other, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.reload")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    measured = reloads(arguments.rounds)
    service = statistics.median(measured.pop("service"))
    found = [row(f"reload_{name}", SETUP, statistics.median(of), service) for name, of in measured.items()]
    found += [row(name, "200 workers", value, None) for name, value in planning().items()]
    print(f"\n{'metric':28} {'seconds':>8}   of a restart of the service")
    for one in found:
        ratio = "" if one["ratio"] is None else f"{one['ratio']:8.3f}"
        print(f"{one['metric']:28} {one['value']:8.4f}   {ratio}")
    save("plan.json", found)


if __name__ == "__main__":
    main()
