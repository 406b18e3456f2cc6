"""Where benchmarks leave their figures: one row for each metric and baseline."""

from __future__ import annotations

import json
from typing import Any

from tests.support.toolchain import ROOT


def save(name: str, rows: list[dict[str, Any]]) -> None:
    target = ROOT / "target" / "bench" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {target}")
