"""The homeserver that `make bench-router` pretends to have behind each proxy, and who answers what in it.

Which expression leads where is read from synvisor's own table, for the other proxies as well.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.deployment import BINARY
from tests.support.toolchain import ROOT

# What there is of each kind in [workers]; the last seven write streams.
READERS = {"generic": 4, "media_repository": 1, "user_dir": 1}
WRITERS = ["typing", "to_device", "account_data", "receipts", "presence", "push_rules", "device_lists"]
MAIN = "main"
# Of those that the listing names, who is no process behind the router.
NOBODY = ("nobody: 404", "router")


def units() -> dict[str, Any]:
    """Each unit, with its role as the router's table has it."""
    found: dict[str, Any] = {MAIN: MAIN}
    for kind, count in READERS.items():
        found |= {f"{kind}-{at}".replace("_", "-"): {"worker": kind} for at in range(1, count + 1)}
    return found | {f"{kind}-1".replace("_", "-"): {"worker": {"writer": kind}} for kind in WRITERS}


def topology(directory: Path) -> dict[str, Any]:
    """What the supervisor would tell the router of units whose sockets are in this directory."""
    return {
        "units": [
            {
                "name": name,
                "role": role,
                "client_socket": str(directory / f"{name}.sock"),
                "private_socket": None,
                "resources": ["client", "federation", "media"],
            }
            for name, role in units().items()
        ]
    }


@dataclass
class Location:
    """An expression on paths, and the group of units that answers what fits it."""

    pattern: str
    group: str
    # Methods that another group answers.
    others: dict[str, list[str]] = field(default_factory=dict)


def listing() -> list[tuple[str, str]]:
    """Of each rule the methods and the column of units, as synvisor prints them."""
    counts = {**READERS, **dict.fromkeys(WRITERS, 1)}
    workers = "".join(f"{kind} = {count}\n" for kind, count in counts.items())
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(f'server_name = "a.b"\n[workers]\n{workers}')
        file.flush()
        asked = [str(BINARY), "routes", "--config", file.name]
        printed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    rows = (re.match(r" *\d+  (\S+) +\S+ +(\S.*?)  ", line) for line in printed.splitlines())
    return [(row[1], row[2]) for row in rows if row]


def members(column: str) -> list[str]:
    """The units of a column whom a request goes to while all are up: `generic-1…4 > main`."""
    first = column.partition(" > ")[0]
    several = re.fullmatch(r"(.*-)(\d+)…(\d+)", first)
    names = (
        [first]
        if several is None
        else [f"{several[1]}{at}" for at in range(int(several[2]), int(several[3]) + 1)]
    )
    assert set(names) <= set(units()), f"the listing of routes names {column}, which is none of the units"
    return names


def groups() -> dict[str, list[str]]:
    """What the other proxies call an upstream, or a backend: its name, and its units."""
    return {members(column)[0]: members(column) for _, column in listing() if column not in NOBODY}


def locations() -> list[Location]:
    """What has to be found where, in match order; the rest is main's."""
    text = (ROOT / "src" / "route" / "rules.tsv").read_text(encoding="utf-8")
    patterns = [line.split("\t")[1] for line in text.splitlines() if not line.startswith("#")]
    printed = listing()
    assert len(patterns) == len(printed), "rules.tsv and the listing of routes differ in length"
    found: dict[str, Location] = {}
    for pattern, (methods, column) in zip(patterns, printed, strict=True):
        if column in NOBODY:
            continue
        group = members(column)[0]
        location = found.setdefault(pattern, Location(pattern, group))
        if group != location.group:
            location.others.setdefault(group, []).extend(methods.split(","))
    return [location for location in found.values() if location.group != MAIN or location.others]
