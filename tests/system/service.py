"""The service as it is shipped, in a machine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.support.deployment import EMBEDDED, LIVELY, free_port, wait_for
from tests.support.toolchain import ROOT, prepare

from .machine import Machine

UNIT = "synvisor.service"
TOML = "/etc/synvisor/synvisor.toml"


def python(venv: Path) -> dict[Path, Path]:
    """A virtualenv of the host and what its interpreter consists of, by where they are looked for."""
    interpreter = venv / "bin" / "python3"
    where = [str(interpreter), "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"]
    library = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    return {venv: venv, library: library, interpreter.readlink(): interpreter.resolve()}


def package(kind: str) -> Path:
    """What `make deb` or `make rpm` has built."""
    found = sorted((ROOT / "target/package").glob(f"*.{kind}"))
    assert len(found) == 1, f"one package is needed in target/package, and there are {found}: make {kind}"
    return found[0]


class Service:
    """One homeserver, administered by `systemctl` and the TOML."""

    def __init__(self, suite: str) -> None:
        self.venv = prepare().resolve()
        self.machine = Machine(suite, python(self.venv))
        self.port = free_port()
        self.services = EMBEDDED
        self.reset()

    def reset(self) -> None:
        """Forgets what a test has changed, until the next `write`."""
        self.workers, self.units, self.synapse = "generic = 2", "", LIVELY

    def install(self) -> Service:
        """Installs the package."""
        self.machine.boot()
        # So that its journal says what it is notified of.
        self.systemctl("log-level", "debug")
        shutil.copy(package("deb"), self.machine.root / "synvisor.deb")
        self.machine.run("dpkg", "--install", "/synvisor.deb")
        self.write()
        return self

    @property
    def toml(self) -> Path:
        return self.machine.root / TOML.removeprefix("/")

    def write(self) -> None:
        """Writes the TOML file as it now should be."""
        self.toml.write_text(
            f"""server_name = "localhost:{self.port}"
public_baseurl = "http://127.0.0.1:{self.port}/"
[workers]
{self.workers}
{self.units}
{self.services}
[python]
venv = "{self.venv}"
[[listen]]
address = "127.0.0.1:{self.port}"
[synapse]
{self.synapse}
""",
            encoding="utf-8",
        )

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """What it printed."""
        return self.machine.run("systemctl", *arguments, check=check).stdout

    def properties(self, *names: str) -> dict[str, str]:
        shown = self.systemctl("show", UNIT, *(f"--property={name}" for name in names))
        return dict(line.split("=", 1) for line in shown.splitlines())

    def state(self) -> str:
        held = self.properties("ActiveState", "SubState")
        return f"{held['ActiveState']}/{held['SubState']}"

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.machine.run("synvisor", "status", "--json").stdout)
        return answer

    def pids(self) -> dict[str, int | None]:
        """Those of the machine's own process tree."""
        return {unit["name"]: unit["pid"] for unit in self.status()["units"]}

    def unready(self) -> list[str]:
        return [unit["name"] for unit in self.status()["units"] if unit["state"] != "ready"]

    def wait_ready(self) -> None:
        wait_for("every unit is ready", lambda: True if not self.unready() else None)

    def notifications(self) -> list[str]:
        """What systemd says that the supervisor told it of its state, since it was started."""
        self.machine.run("journalctl", "--sync")
        pid = self.properties("MainPID")["MainPID"]
        lines = self.machine.run("journalctl", "--no-pager", "--output=cat", "_PID=1").stdout.splitlines()
        # As systemd 252 and as 257 put it.
        heard = re.compile(rf"{UNIT}: Got notification message from PID {pid}(?: \((.*)\)|: (.*))")
        said = [match[1] or match[2] for line in lines if (match := heard.fullmatch(line))]
        # Signs of life, and descriptors that it has kept, come at any time.
        return [words for words in said if not words.startswith(("WATCHDOG=1", "FDSTORE"))]

    def close(self) -> None:
        self.machine.stop()
