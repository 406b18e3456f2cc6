"""Reads YAML documents as Synapse does and prints where they differ from JSON: `same.py YAML JSON …`.

Only the top-level keys of the JSON are compared.
"""

import json
import sys
from pathlib import Path

import yaml


def differences(meant: object, read: object, where: str) -> list[str]:
    # bool is an int to Python, and 1 == 1.0: types must agree as well.
    if type(meant) is not type(read):
        return [f"{where}: {meant!r} became {read!r}"]
    if isinstance(meant, dict):
        found = [] if list(meant) == list(read) else [f"{where}: keys {list(meant)!r} became {list(read)!r}"]
        pairs = ((meant[key], read[key], f"{where}.{key!r}") for key in meant if key in read)
        return found + [line for pair in pairs for line in differences(*pair)]
    if isinstance(meant, list):
        if len(meant) != len(read):
            return [f"{where}: {len(meant)} entries became {len(read)}"]
        pairs = enumerate(zip(meant, read, strict=True))
        return [line for at, (one, other) in pairs for line in differences(one, other, f"{where}[{at}]")]
    return [] if meant == read else [f"{where}: {meant!r} became {read!r}"]


def main(paths: list[str]) -> None:
    for written, expected in zip(paths[::2], paths[1::2], strict=True):
        meant = json.loads(Path(expected).read_bytes())
        document = yaml.safe_load(Path(written).read_bytes())
        read = {key: document[key] for key in meant}
        print(*differences(meant, read, Path(written).name), sep="\n", end="")


if __name__ == "__main__":
    main(sys.argv[1:])
