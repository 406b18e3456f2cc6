"""A synvisor of its own for a test: private directories and ports, started, watched and stopped."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from .matrix import Client
from .orphans import end_holders, holders
from .toolchain import ROOT, prepare

BINARY = Path(os.environ.get("SYNVISOR_BINARY", ROOT / "target" / "release" / "synvisor"))
# As root nothing of Synapse runs as root; this user is on every Debian.
UNPRIVILEGED = "nobody"

ROOT_USER = os.geteuid() == 0
# Whom to run as to be an ordinary user; PostgreSQL wants one that has a name. Who is not root is one already.
ORDINARY = pwd.getpwnam(UNPRIVILEGED)[2:4] if ROOT_USER else None

# Ports that somebody in this process has, or may have.
HANDED_OUT: set[int] = set()

T = TypeVar("T")

# The database, and Redis beside it, where nobody else runs them.
EMBEDDED_DATABASE = '[database]\nmode = "embedded"\n'
EMBEDDED = EMBEDDED_DATABASE + '[redis]\nmode = "embedded"\n'

# A test talks to itself, often and fast; hashing a password is made to take long, and here nobody guesses.
LIVELY = """
bcrypt_rounds = 4
enable_registration = true
enable_registration_without_verification = true
trusted_key_servers = []
ip_range_blacklist = []
federation_verify_certificates = false
rc_message = { per_second = 1000, burst_count = 1000 }
rc_registration = { per_second = 1000, burst_count = 1000 }
rc_joins.local = { per_second = 1000, burst_count = 1000 }
rc_joins.remote = { per_second = 1000, burst_count = 1000 }
[synapse.rc_login]
address = { per_second = 1000, burst_count = 1000 }
account = { per_second = 1000, burst_count = 1000 }
"""


def free_port() -> int:
    """A port that nobody takes while its owner is away: it lies below those that the kernel gives to clients
    (ip_local_port_range), and each process of one pytest-xdist has ports of its own.
    """
    worker, workers = (
        os.environ.get("PYTEST_XDIST_WORKER", "gw0"),
        os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"),
    )
    while True:
        port = random.randrange(10_000 + int(worker[2:]), 32_768, int(workers))
        if port not in HANDED_OUT:
            HANDED_OUT.add(port)
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


def wait_for(what: str, probe: Callable[[], T | None], seconds: float = 120, pause: float = 0.1) -> T:
    """Asks until there is an answer; the machine may be slow, so the deadline is only there to end at all."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (answer := probe()) is not None:
            return answer
        time.sleep(pause)
    raise AssertionError(f"timed out: {what}")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float = 10) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


def over_unix_socket(path: Path, method: str, target: str, body: Any = None) -> tuple[int, bytes]:
    connection = UnixConnection(path)
    try:
        text = None if body is None else json.dumps(body).encode()
        connection.request(method, target, text, {"X-Forwarded-For": "127.0.0.1"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def children(pid: int) -> set[int]:
    """Every descendant of a process."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found: set[int] = set()
    while grown := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= grown
    return found


def command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


class Deployment:
    """One homeserver under synvisor."""

    def __init__(
        self,
        workers: str = "",
        *,
        server_name: str | None = None,
        port: int | None = None,
        synapse: str = LIVELY,
        services: str = EMBEDDED,
        top: str = "",
        extra: str = "",
        admin: bool = False,
        venv: Path | None = None,
        user: str = UNPRIVILEGED,
        router_user: str = UNPRIVILEGED,
        run_as: tuple[int, int] | None = None,
        without: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        empty: bool = False,
    ) -> None:
        # Short, since the path of a Unix socket is, and open to be entered by the unprivileged user.
        self.directory = Path(tempfile.mkdtemp(prefix="sv", dir="/tmp"))
        self.directory.chmod(0o755)
        self.state, self.run = self.directory / "state", self.directory / "run"
        self.port = port or free_port()
        self.server_name = server_name or f"localhost:{self.port}"
        self.public_baseurl = f"http://127.0.0.1:{self.port}/"
        self.workers, self.services, self.synapse = workers, services, synapse
        self.top, self.extra = top, extra
        self.venv = venv or prepare()
        # [python], where that is not the virtualenv.
        self.python = ""
        self.user, self.router_user = user, router_user
        self.admin = admin
        self.run_as = run_as
        # Mechanisms to leave out, to see that they matter.
        self.without = [f"--without={mechanism}" for mechanism in without]
        # What the supervisor finds in its environment beside ours.
        self.environment = environment or {}
        if run_as:
            os.chown(self.directory, *run_as)
        # Whether Synapse is to make its tables itself, at the first start.
        self.empty = empty or user != UNPRIVILEGED or run_as is not None
        self.binary = BINARY
        self.toml = self.directory / "synvisor.toml"
        self.output = self.directory / "output"
        self.process: subprocess.Popen[bytes] | None = None
        self.write()

    def write(self) -> None:
        """Writes the TOML file as it now should be."""
        self.toml.write_text(
            f"""server_name = "{self.server_name}"
public_baseurl = "{self.public_baseurl}"{self.top and chr(10) + self.top}
[workers]
{self.workers}
{self.services}
[python]
{self.python or f'venv = "{self.venv}"'}
[[listen]]
address = "127.0.0.1:{self.port}"
admin = {str(self.admin).lower()}
[supervisor]
state_dir = "{self.state}"
run_dir = "{self.run}"
user = "{self.user}"
router_user = "{self.router_user}"
drain_timeout = "2s"
{self.extra}
[synapse]
{self.synapse}
""",
            encoding="utf-8",
        )

    def command(self, *arguments: str) -> list[str]:
        prefix = []
        if self.run_as:
            uid, gid = self.run_as
            prefix = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        return [*prefix, str(self.binary), *arguments, "--config", str(self.toml)]

    def cli(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=timeout, check=False
        )

    def start(self) -> Deployment:
        if EMBEDDED_DATABASE in self.services and not self.empty and not self.python:
            # Imported only here, since it makes one of us.
            from .tables import lay_out

            lay_out(self)
        with self.output.open("ab") as output:
            command = self.command("supervise", *self.without)
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | self.environment,
            )
        return self

    def kill(self) -> None:
        """Ends the supervisor as nothing can prevent; whatever it runs goes on."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def status(self) -> dict[str, Any] | None:
        done = self.cli("status", "--json", timeout=30)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def unit(self, name: str) -> dict[str, Any]:
        status = self.status()
        assert status, "the supervisor does not answer"
        return next(unit for unit in status["units"] if unit["name"] == name)

    def pids(self) -> dict[str, int | None]:
        status = self.status()
        assert status, "the supervisor does not answer"
        return {unit["name"]: unit["pid"] for unit in status["units"]}

    def wait_ready(self, seconds: float = 180) -> Deployment:
        def ready() -> bool | None:
            assert self.process
            if self.process.poll() is not None:
                raise AssertionError(f"synvisor ended with {self.process.returncode}:\n{self.tail()}")
            status = self.status()
            return True if status and status["state"] == "ready" else None

        try:
            wait_for("every unit ready", ready, seconds)
        except AssertionError as error:
            table = self.cli("status").stdout
            raise AssertionError(f"{error}\n{table}\n{self.tail()}") from None
        return self

    def tail(self, size: int = 6000) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")[-size:]

    def metrics(self, unit: str) -> str:
        status, text = over_unix_socket(self.run / "private" / f"{unit}.sock", "GET", "/_synapse/metrics")
        assert status == 200, text
        return text.decode()

    def client(self) -> Client:
        return Client(self.port)

    def administrator(self, port: int | None = None) -> Client:
        """A server administrator, made with the registration secret that synvisor generated."""
        client = Client(port or self.port)
        secret = (self.state / "secrets" / "registration_shared_secret").read_text(encoding="utf-8")
        nonce = client.call("GET", "/_synapse/admin/v1/register")["nonce"]
        name, password = f"admin-{uuid.uuid4().hex[:8]}", "a password"
        text = "\0".join([nonce, name, password, "admin"]).encode()
        mac = hmac.new(secret.strip().encode(), text, hashlib.sha1).hexdigest()
        body = {"nonce": nonce, "username": name, "password": password, "admin": True, "mac": mac}
        return client._logged_in(client.call("POST", "/_synapse/admin/v1/register", body))

    def stop(self) -> None:
        """Stops it as systemd would and checks that nothing is left."""
        if self.process is None:
            return
        descendants = children(self.process.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=90)
        left = {pid: command_line(pid) for pid in descendants if Path(f"/proc/{pid}/exe").exists()}
        assert not left, f"processes were left behind: {left}"
        sockets = [path for path in self.run.rglob("*") if path.is_socket()]
        assert not sockets, f"sockets were left behind: {sockets}"
        assert code == 0, f"exit code {code}:\n{self.tail()}"
        # Not all were its descendants: some outlived a supervisor before this one.
        kept = {process.pid: command_line(process.pid) for process in holders(self.state)}
        assert not kept, f"processes were left behind that this supervisor had not started: {kept}"
        self.process = None

    def close(self) -> None:
        try:
            self.stop()
        finally:
            if self.process is not None:
                self.process.kill()
                self.process.wait()
            # A supervisor that was killed leaves the homeserver running.
            end_holders(self.state)
            shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def deployed(workers: str = "", **settings: Any) -> Iterator[Deployment]:
    deployment = Deployment(workers, **settings)
    try:
        yield deployment.start().wait_ready()
    finally:
        deployment.close()
