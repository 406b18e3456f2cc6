"""Web servers as people have them in front, those of Debian, with configurations of their own."""

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
PACKAGES = {
    "caddy": "usr/bin/caddy",
    "nginx": "usr/sbin/nginx",
    "haproxy": "usr/sbin/haproxy",
    "apache2-bin": "usr/sbin/apache2",
    "wrk": "usr/bin/wrk",
}


def program(name: str) -> Path:
    """The machine's own, or the one of Debian's package, unpacked: installing it would start a service."""
    inside = Path(PACKAGES[name])
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    if found := shutil.which(inside.name, path=path):
        return Path(found)
    directory = work_directory() / "packages" / name
    unpacked = directory / inside
    if not unpacked.exists():
        say(f"fetching Debian's {name}")
        # Who looks meanwhile finds all of it or nothing.
        making = directory.with_name(f"{name}.{os.getpid()}")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        unpack_with_libraries(name, making, making / inside)
        shutil.rmtree(directory, ignore_errors=True)
        making.rename(directory)
    return unpacked


def unpack_with_libraries(name: str, directory: Path, unpacked: Path) -> None:
    """Libraries that the machine lacks lie beside the program, as those of its package would."""
    wanted, known = unpack(name, directory), {name}
    while lacks_libraries(unpacked):
        missing = [library for library in wanted if library not in known and not is_installed(library)]
        if not missing:
            raise RuntimeError(f"this test needs {name}; install it:\n  sudo apt-get install {name}")
        known.update(missing)
        wanted = [found for library in missing for found in unpack(library, directory)]


def unpack(name: str, directory: Path) -> list[str]:
    """The libraries that a package needs."""
    fetch(name, directory)
    package = next(directory.glob(f"{name}_*.deb"))
    subprocess.run(["dpkg-deb", "--extract", str(package), str(directory)], check=True)
    asked = ["dpkg-deb", "--field", str(package), "Depends"]
    depends = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    # Of alternatives the first is Debian's own choice.
    names = [choice.split()[0].partition(":")[0] for choice in depends.split(",")]
    return [found for found in names if found.startswith("lib")]


def is_installed(name: str) -> bool:
    asked = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", name]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout == "installed"


def lacks_libraries(unpacked: Path) -> bool:
    asked = subprocess.run(
        ["ldd", str(unpacked)], capture_output=True, text=True, env=with_libraries(unpacked), check=False
    )
    return "not found" in asked.stdout


def with_libraries(unpacked: Path) -> dict[str, str]:
    """The environment in which a program finds the libraries that were unpacked beside it."""
    environment = dict(os.environ)
    if unpacked.is_relative_to(work_directory()):
        beside = unpacked.parents[2].glob("usr/lib/*-linux-gnu*")
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, beside))
    return environment


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
        environment = with_libraries(Path(command[0]))
        environment.update(dict.fromkeys(["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"], str(self.directory)))
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
