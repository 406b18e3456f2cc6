"""`make demo`: a whole homeserver on this machine, and two users who talk over it."""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.support import toolchain
from tests.support.deployment import BINARY, UNPRIVILEGED
from tests.support.matrix import Client, MatrixError

PASSWORD = "correct horse battery staple"
SERVER_NAME = "demo.localhost"
# A first start migrates an empty database and starts seventeen processes; slow machines need minutes.
PATIENCE = 600.0


def say(text: str = "") -> None:
    print(text, flush=True)


def port() -> int:
    """Synapse's usual port, or another one if that is taken."""
    for wanted in (8008, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            if found != 8008:
                say(f"port 8008 is taken; this demo uses {found}")
            return found
    sys.exit("there is no free port on 127.0.0.1")


class Demo:
    def __init__(self) -> None:
        self.venv = toolchain.prepare()
        self.directory = toolchain.work_directory() / "demo"
        self.directory.mkdir(parents=True, exist_ok=True)
        # Sockets have short paths, and two checkouts may run their demos side by side.
        checkout = hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:8]
        self.run = Path(f"/tmp/synvisor-demo-{os.geteuid()}-{checkout}")
        self.log = self.directory / "output.log"
        self.toml = self.directory / "synvisor.toml"
        self.port = port()
        self.binary = BINARY
        self.supervisor: subprocess.Popen[bytes] | None = None

    def configuration(self) -> str:
        text = f"""server_name = "{SERVER_NAME}"
public_baseurl = "http://127.0.0.1:{self.port}/"
workers = {{ preset = "one-of-each" }}
database = {{ mode = "embedded" }}
redis = {{ mode = "embedded" }}
python = {{ venv = "{self.venv}" }}
listen = [{{ address = "127.0.0.1:{self.port}" }}]
supervisor = {{ state_dir = "{self.directory}/state", run_dir = "{self.run}", drain_timeout = "2s" }}
synapse = {{ enable_registration = true, enable_registration_without_verification = true }}
"""
        if os.geteuid() == 0:
            users = f', user = "{UNPRIVILEGED}", router_user = "{UNPRIVILEGED}" }}'
            text = text.replace(' drain_timeout = "2s" }', f' drain_timeout = "2s"{users}')
        return text

    def start(self) -> None:
        self.toml.write_text(self.configuration(), encoding="utf-8")
        say(f"the configuration, {self.toml}:\n")
        for line in self.toml.read_text(encoding="utf-8").splitlines():
            say(f"    {line}")
        say(f"\nstarting synvisor; every line that a process writes is in {self.log}")
        with self.log.open("wb") as log:
            self.supervisor = subprocess.Popen(
                [str(self.binary), "supervise", "--config", str(self.toml)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the demo, which then stops it in order.
                start_new_session=True,
            )

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.binary), *arguments, "--config", str(self.toml)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def wait_ready(self) -> None:
        """Shows each unit as it becomes ready."""
        import json

        begun = time.monotonic()
        seen: set[str] = set()
        while time.monotonic() < begun + PATIENCE:
            assert self.supervisor
            if self.supervisor.poll() is not None:
                tail = self.log.read_text(encoding="utf-8", errors="replace")[-3000:]
                sys.exit(f"synvisor ended with {self.supervisor.returncode}:\n{tail}")
            done = self.cli("status", "--json")
            if done.returncode == 0:
                status = json.loads(done.stdout)
                ready = [unit["name"] for unit in status["units"] if unit["state"] == "ready"]
                for name in [name for name in ready if name not in seen]:
                    seen.add(name)
                    say(f"  {len(seen):2} of {len(status['units'])} ready: {name}")
                if status["state"] == "ready":
                    say(f"everything is ready after {time.monotonic() - begun:.1f} s")
                    return
            time.sleep(0.2)
        sys.exit(f"not ready after {PATIENCE:.0f} s:\n{self.cli('status').stdout}")

    def user(self, name: str) -> Client:
        """Logs a user in, and registers it first if this is the first run."""
        client = Client(self.port)
        try:
            return client.login(name, PASSWORD)
        except MatrixError as error:
            if error.status != 403:
                raise
            return client.register(name, PASSWORD)

    def talk(self) -> None:
        alice, bob = self.user("alice"), self.user("bob")
        room = alice.create_room(name="synvisor demo", preset="public_chat")
        bob.join(room)
        text = f"hello bob, it is {time.strftime('%H:%M:%S')}"
        bob.sync()
        alice.send(room, text)
        event = bob.wait_for_message(room, text)
        say(f'{event["sender"]} said "{event["content"]["body"]}", and {bob.user} received it')

    def stop(self) -> None:
        if self.supervisor is None:
            return
        say("stopping")
        self.supervisor.send_signal(signal.SIGTERM)
        code = self.supervisor.wait(timeout=120)
        say(
            "stopped; nothing is left running" if code == 0 else f"synvisor ended with {code}, see {self.log}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument("--once", action="store_true", help="stop when it works")
    once = parser.parse_args().once
    # A terminated demo stops its homeserver as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    demo = Demo()
    try:
        demo.start()
        demo.wait_ready()
        demo.talk()
        say()
        say(demo.cli("status").stdout)
        if once:
            return
        url = f"http://127.0.0.1:{demo.port}"
        config = f"--config {demo.toml}"
        say(f"The homeserver is at {url}: log in with any Matrix client (in Element: Edit homeserver)")
        say(f'as alice or bob, password "{PASSWORD}".')
        say("In another terminal try:")
        for command in (
            f"{BINARY} status {config}",
            f"{BINARY} restart generic-1 {config}",
            f"{BINARY} route PUT '/_matrix/client/v3/rooms/!r/typing/@alice:{SERVER_NAME}' {config}",
            f"curl {url}/_matrix/client/versions",
        ):
            say(f"    {command}")
        say("Ctrl-C stops everything.")
        assert demo.supervisor
        code = demo.supervisor.wait()
        sys.exit(f"synvisor ended by itself with {code}, see {demo.log}")
    except KeyboardInterrupt:
        say()
    finally:
        demo.stop()


if __name__ == "__main__":
    main()
