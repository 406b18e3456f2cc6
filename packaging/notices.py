"""Prints the licences of what is linked into the program, as most of them ask whoever passes it on to do.

Run in the directory of Cargo.toml, with the crates downloaded; the argument is the platform of the program.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

TEXTS = re.compile(r"(licen[cs]e|copying|notice|copyright|unlicense)", re.IGNORECASE)


def linked(platform: str) -> list[dict[str, Any]]:
    """The packages that get into the program, without those that only build or test it."""
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={platform}"]
    known = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    nodes = {node["id"]: node["deps"] for node in known["resolve"]["nodes"]}
    seen, left = set(), [known["resolve"]["root"]]
    while left:
        if (package := left.pop()) not in seen:
            seen.add(package)
            normal = [dep for dep in nodes[package] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
            left += [dep["pkg"] for dep in normal]
    found = [package for package in known["packages"] if package["id"] in seen and package["source"]]
    return sorted(found, key=lambda package: (package["name"], package["version"]))


def texts(package: dict[str, Any]) -> list[str]:
    """What lies beside its Cargo.toml; of two licences to choose from the shorter one."""
    directory = Path(package["manifest_path"]).parent
    files = [path for path in sorted(directory.iterdir()) if path.is_file() and TEXTS.match(path.name)]
    if any("mit" in path.name.lower() for path in files):
        files = [path for path in files if "apache" not in path.name.lower()]
    return [path.read_text(encoding="utf-8", errors="replace").strip() for path in files]


def main() -> None:
    packages = linked(sys.argv[1])
    print("synvisor is linked from these packages as well; the texts of their licences follow.\n")
    for package in packages:
        print(f"{package['name']} {package['version']}: {package['license'] or 'see its text'}")
    users: dict[str, list[str]] = {}
    for package in packages:
        for text in texts(package):
            users.setdefault(text, []).append(package["name"])
    for text, names in users.items():
        print(f"\n{'-' * 80}\n{', '.join(dict.fromkeys(names))}\n\n{text}")


main()
