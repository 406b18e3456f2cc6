"""Synapse's own reading of configuration files that no process runs with yet.

    app "synvisor.configuration", arguments FILE…

On standard output one JSON object a line says of each file what Synapse has against it, or null.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What Synapse says of one file."""

    file: str
    problem: str | None
    """In Synapse's own words; they may be several lines."""
    path: list[str]
    """The setting that is meant, from the outermost key on, as far as Synapse tells."""


def main() -> None:
    """Checks the files that the arguments name, as the apps themselves would read them."""
    check(sys.argv[1:])


def check(files: Sequence[str]) -> None:
    for file in files:
        print(json.dumps(asdict(verdict(file))), flush=True)


def verdict(file: str) -> Verdict:
    base: Any = importlib.import_module("synapse.config._base")
    appservice: Any = importlib.import_module("synapse.config.appservice")
    homeserver: Any = importlib.import_module("synapse.config.homeserver")
    try:
        config = homeserver.HomeServerConfig.load_config("Synapse", ["-c", file])
        # A process reads these only when it has begun (1.163: `storage/databases/main/appservice.py`).
        appservice.load_appservices(config.server.server_name, config.appservice.app_service_config_files)
    except base.ConfigError as error:
        return Verdict(file, "".join(base.format_config_error(error)), [str(key) for key in error.path or ()])
    # Much of Synapse's parser takes for granted that values have the right types.
    except (Exception, SystemExit) as error:
        return Verdict(file, f"{type(error).__name__}: {error}", [])
    return Verdict(file, None, [])
