"""A Synapse as somebody runs it who does not know synvisor: plainly, as another user."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .deployment import ROOT_USER, Deployment, wait_for
from .matrix import Client
from .toolchain import prepare

# Another one than synvisor's.
USER = "daemon"
SECRETS = ("macaroon_secret_key", "registration_shared_secret", "form_secret")


def owner() -> tuple[int, int]:
    return pwd.getpwnam(USER)[2:4] if ROOT_USER else (os.geteuid(), os.getegid())


class OldServer:
    """One process, stopped and started by scripts, as its own administrator would."""

    def __init__(self, port: int, server_name: str, database: dict[str, Any] | None = None) -> None:
        """Without a database it has one of SQLite."""
        self.directory = Path(tempfile.mkdtemp(prefix="so", dir="/tmp"))
        self.directory.chmod(0o755)
        self.port, self.server_name = port, server_name
        self.media, self.sqlite = self.directory / "media_store", self.directory / "homeserver.db"
        self.yaml, self.log = self.directory / "homeserver.yaml", self.directory / "log"
        self.pid_file = self.directory / "pid"
        self.secrets = {name: secrets.token_urlsafe(32) for name in SECRETS}
        self.key = self.directory / "signing.key"
        seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
        self.key.write_text(f"ed25519 a_old {seed}\n", encoding="utf-8")
        listener = {
            "port": port,
            "type": "http",
            "bind_addresses": ["127.0.0.1"],
            "resources": [{"names": ["client", "federation"]}],
        }
        many = {"per_second": 1000, "burst_count": 1000}
        settings = {
            "server_name": server_name,
            "public_baseurl": f"http://127.0.0.1:{port}/",
            "listeners": [listener],
            "database": database or {"name": "sqlite3", "args": {"database": "homeserver.db"}},
            "media_store_path": "media_store",
            "signing_key_path": str(self.key),
            "trusted_key_servers": [],
            "report_stats": False,
            "enable_registration": True,
            "enable_registration_without_verification": True,
            # Those of a new database are soon done so.
            "background_updates": {"sleep_enabled": False},
            "rc_message": many,
            "rc_registration": many,
            "rc_login": {"address": many, "account": many},
            **self.secrets,
        }
        # JSON is YAML.
        self.yaml.write_text(json.dumps(settings), encoding="utf-8")
        for path in [self.directory, *self.directory.iterdir()]:
            os.chown(path, *owner())
        self.start_command, self.stop_command = self.script("start"), self.script("stop")

    def script(self, what: str) -> str:
        """The command of an administrator: returns when it has started, or stopped."""
        uid, gid = owner()
        become = f"setpriv --reuid={uid} --regid={gid} --clear-groups" if ROOT_USER else ""
        synapse = f"{prepare()}/bin/python -m synapse.app.homeserver -c {self.yaml}"
        # A dead process that nobody has taken leave of has no program any more.
        text = {
            "start": f"cd {self.directory}\n"
            f"setsid {become} {synapse} </dev/null >>{self.log} 2>&1 &\necho $! >{self.pid_file}\n",
            "stop": f"pid=$(cat {self.pid_file})\nkill $pid\n"
            "while readlink /proc/$pid/exe >/dev/null; do sleep 0.05; done\n",
        }[what]
        path = self.directory / f"{what}.sh"
        path.write_text(text, encoding="utf-8")
        return f"sh {path}"

    def start(self) -> OldServer:
        subprocess.run(["sh", "-c", self.start_command], check=True)
        return self.wait_ready()

    def stop(self) -> None:
        subprocess.run(["sh", "-c", self.stop_command], check=True)

    def wait_ready(self) -> OldServer:
        def answers() -> bool | None:
            try:
                Client(self.port).call("GET", "/_matrix/client/versions")
            except OSError:
                return None
            return True

        try:
            wait_for("the old server", answers)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log.read_text(errors='replace')[-4000:]}") from None
        return self

    def settle(self) -> OldServer:
        """Waits until Synapse has ended what it does once to a database of SQLite."""

        def settled() -> bool | None:
            with contextlib.closing(sqlite3.connect(self.sqlite)) as database:
                (left,) = database.execute("SELECT count(*) FROM background_updates").fetchone()
            return True if left == 0 else None

        wait_for("the background updates", settled)
        return self

    def pid(self) -> int | None:
        """That of the process, if it lives."""
        if not self.pid_file.exists():
            return None
        pid = int(self.pid_file.read_text(encoding="utf-8"))
        try:
            os.readlink(f"/proc/{pid}/exe")
        except OSError:
            return None
        return pid

    def client(self) -> Client:
        return Client(self.port)

    def close(self) -> None:
        if pid := self.pid():
            os.kill(pid, signal.SIGKILL)
            wait_for("the old server to end", lambda: True if self.pid() is None else None)
        shutil.rmtree(self.directory)


class NewServer(Deployment):
    """A synvisor to which an old server moves: at its address, with its secrets, started by the move."""

    def __init__(self, old: OldServer, **settings: Any) -> None:
        super().__init__(port=old.port, server_name=old.server_name, **settings)
        kept = {**old.secrets, "signing_key": old.key.read_text(encoding="utf-8")}
        lines = []
        for name, secret in kept.items():
            path = self.directory / name
            path.touch(mode=0o600)
            path.write_text(secret, encoding="utf-8")
            lines.append(f'{name}_file = "{path}"')
        self.extra = "\n".join(["[secrets]", *lines])
        self.write()
        start, stop = self.directory / "start.sh", self.directory / "stop.sh"
        start.write_text(
            f"setsid {' '.join(self.command('supervise'))} </dev/null >>{self.output} 2>&1 &\n", "utf-8"
        )
        stop.write_text(
            f"pid=$(cat {self.state}/supervisor.lock)\nkill $pid\n"
            "while readlink /proc/$pid/exe >/dev/null; do sleep 0.05; done\n",
            "utf-8",
        )
        self.flags = [
            f"--from={old.yaml}",
            f"--old-stop={old.stop_command}",
            f"--old-start={old.start_command}",
            f"--new-start=sh {start}",
            f"--new-stop=sh {stop}",
        ]

    def migrate(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.cli("migrate", *self.flags, *options, timeout=600)
