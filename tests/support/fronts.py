"""Web servers as people have them in front, Debian's Caddy and nginx, with configurations of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from .deployment import free_port, wait_for
from .toolchain import say, work_directory

# What Debian calls the package, and where the program lies in it.
PACKAGES = {"caddy": "usr/bin/caddy", "nginx": "usr/sbin/nginx"}


def program(name: str) -> Path:
    """The machine's own, or the one of Debian's package, unpacked: installing it would start a service."""
    inside = PACKAGES[name]
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    if found := shutil.which(name, path=path):
        return Path(found)
    directory = work_directory() / "packages" / name
    if not (directory / inside).exists():
        say(f"fetching Debian's {name}")
        directory.mkdir(parents=True, exist_ok=True)
        fetch(name, directory)
        package = next(directory.glob("*.deb"))
        subprocess.run(["dpkg-deb", "--extract", str(package), str(directory)], check=True)
    return directory / inside


def fetch(name: str, directory: Path) -> None:
    commands = [["apt-get", "download", name]]
    if os.geteuid() == 0:
        # A fresh machine does not know yet what there is.
        commands += [["apt-get", "update"], commands[0]]
    for command in commands:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode == 0 and command[1] == "download":
            return
    raise RuntimeError(f"this test needs {name}; install it:\n  sudo apt-get install {name}\n{done.stderr}")


@dataclass
class Front:
    """A web server with some ports of its own."""

    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="svweb", dir="/tmp")))
    process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str], ports: list[int]) -> None:
        output = self.directory / "output"
        environment = {**os.environ, "HOME": str(self.directory), "XDG_DATA_HOME": str(self.directory)}
        environment["XDG_CONFIG_HOME"] = str(self.directory)
        with output.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
            )
        process = self.process

        def listens() -> bool | None:
            assert process.poll() is None, output.read_text(encoding="utf-8", errors="replace")
            for port in ports:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) != 0:
                        return None
            return True

        try:
            wait_for(f"{command[0]} listens", listens)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)
            self.process = None
        shutil.rmtree(self.directory, ignore_errors=True)


def caddy(target: int) -> tuple[Front, int]:
    """Two lines, as Caddy's own manual has them."""
    front, port = Front(), free_port()
    file = front.directory / "Caddyfile"
    options = "{\n\tadmin off\n\tauto_https off\n}\n"
    file.write_text(f"{options}http://127.0.0.1:{port} {{\n\treverse_proxy 127.0.0.1:{target}\n}}\n", "utf-8")
    front.start([str(program("caddy")), "run", "--config", str(file), "--adapter", "caddyfile"], [port])
    return front, port


def nginx(target: int, locations: dict[str, str]) -> tuple[Front, dict[str, int]]:
    """A port for each name; `TARGET` in what is written there stands for the homeserver's address."""
    front = Front()
    ports = {name: free_port() for name in locations}
    temporary = "".join(
        f"{kind}_temp_path {front.directory}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    servers = "".join(
        f"server {{ listen 127.0.0.1:{ports[name]}; "
        f"location / {{ {text.replace('TARGET', f'http://127.0.0.1:{target}')} }} }}\n"
        for name, text in locations.items()
    )
    file = front.directory / "nginx.conf"
    file.write_text(
        f"daemon off;\nmaster_process off;\npid {front.directory}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{servers}}}\n",
        encoding="utf-8",
    )
    command = [str(program("nginx")), "-p", str(front.directory), "-c", str(file), "-e", "stderr"]
    front.start(command, list(ports.values()))
    return front, ports
