"""Synapse's main process on SQLite, started by the fork server, with what a test asks of it."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
from pathlib import Path
from typing import Any

from .supervisor import LONG, Child, Supervisor, interpreter, listening, wait_for

MAIN = "synapse.app.homeserver"

CONFIG = """
server_name: localhost
report_stats: false
enable_metrics: true
pid_file: {directory}/main.pid
signing_key_path: {directory}/signing.key
media_store_path: {directory}/media
log_config: {directory}/log.yaml
registration_shared_secret: a
macaroon_secret_key: b
form_secret: c
trusted_key_servers: []
enable_registration: true
enable_registration_without_verification: true
database: {{name: sqlite3, args: {{database: "{directory}/homeserver.db"}}}}
listeners:
  - type: http
    path: {path}
    mode: 432
    resources: [{{names: [client, federation, media, keys, health, metrics]}}]
"""

LOG = """
version: 1
formatters: {brief: {format: "%(asctime)s %(levelname)s %(name)s %(message)s"}}
handlers: {console: {class: logging.StreamHandler, formatter: brief}}
root: {level: INFO, handlers: [console]}
disable_existing_loggers: false
"""


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, kept open between requests."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=LONG)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))

    def ask(self, method: str, target: str, body: Any = None, token: str = "") -> http.client.HTTPResponse:
        """Sends a request and returns the response, whose body has not been read."""
        self.send_request(method, target, body, token)
        return self.getresponse()

    def send_request(self, method: str, target: str, body: Any = None, token: str = "") -> None:
        headers = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if isinstance(body, bytes):
            headers["Content-Type"] = "image/png"
        text = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        self.request(method, target, text, headers)


class Homeserver:
    """The configuration, the listener that is handed over, and the process of the moment."""

    def __init__(self, supervisor: Supervisor, **settings: Any) -> None:
        self.supervisor = supervisor
        directory = supervisor.directory
        self.path = directory / "main.sock"
        self.config = directory / "homeserver.yaml"
        self.config.write_text(CONFIG.format(directory=directory, path=self.path), encoding="utf-8")
        (directory / "log.yaml").write_text(LOG, encoding="utf-8")
        subprocess.run(
            [interpreter(), "-m", "synapse.app.homeserver", "-c", str(self.config), "--generate-keys"],
            check=True,
            capture_output=True,
            cwd=directory,
        )
        self.listener = listening(self.path)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.settimeout(LONG)
        self.notify.bind(str(directory / "notify.sock"))
        self.settings = settings

    def start(self, app: str = MAIN, **changes: Any) -> Child:
        """A process that has been told to go; see wait_ready."""
        environment = {"NOTIFY_SOCKET": str(self.supervisor.directory / "notify.sock")}
        settings = {**self.settings, **changes}
        settings["environment"] = {**environment, **settings.get("environment", {})}
        return self.supervisor.fork(
            app, "-c", str(self.config), listeners={self.path: self.listener}, **settings
        ).go()

    def wait_ready(self, child: Child) -> Child:
        def ready() -> bool | None:
            return True if f"READY=1\nMAINPID={child.pid}" in self.notify.recv(4096).decode() else None

        wait_for("READY", ready)
        return child

    def connect(self) -> Connection:
        return Connection(self.path)

    def token(self) -> str:
        """Of a user that is registered for it."""
        connection = self.connect()
        body = {"auth": {"type": "m.login.dummy"}, "username": "alice", "password": "p"}
        response = connection.ask("POST", "/_matrix/client/v3/register", body)
        answer = json.loads(response.read())
        connection.close()
        assert response.status == 200, answer
        token: str = answer["access_token"]
        return token

    def close(self) -> None:
        self.listener.close()
        self.notify.close()
