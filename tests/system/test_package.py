"""The life of a package beside Debian's own PostgreSQL and Redis, from its installation to its purge."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import free_port
from tests.support.matrix import Client
from tests.support.toolchain import ROOT

from .machine import online, suites
from .service import UNIT, Service, package
from .test_reload import moved
from .test_survive import another_runs, kill, left, main_pid, same_but_fork_server, talking

pytestmark = pytest.mark.timeout(1200)

# What is left when a package that was used is purged: nothing that could be made again.
KEPT = {"generations", "media_store", "secrets"}


@pytest.fixture(scope="module", params=suites())
def machine(request: pytest.FixtureRequest) -> Iterator[Service]:
    service = Service(request.param)
    try:
        service.machine.boot()
        online(service.machine)
        # The machine has the network of the host, whose Redis may have the usual port.
        redis = free_port()
        drop_in = service.machine.root / "etc/systemd/system/redis-server.service.d/port.conf"
        drop_in.parent.mkdir(parents=True)
        start = (
            f"/usr/bin/redis-server /etc/redis/redis.conf --supervised systemd --daemonize no --port {redis}"
        )
        drop_in.write_text(f"[Service]\nExecStart=\nExecStart={start}\n", encoding="utf-8")
        service.services = f"""[database]
host = "/var/run/postgresql"
user = "synvisor"
name = "synvisor"
[redis]
host = "localhost"
port = {redis}
"""
        yield service
    finally:
        service.close()


def apt(service: Service, *arguments: str) -> str:
    """What apt-get printed."""
    command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "--yes", *arguments]
    done = service.machine.run(*command, seconds=600)
    return done.stdout + done.stderr


def mode(service: Service, path: str) -> str:
    return service.machine.run("stat", "--format=%a %U:%G", path).stdout.strip()


def higher(deb: Path) -> Path:
    """The same package a version higher, with a program whose state has another version."""
    built = Path(tempfile.mkdtemp(prefix="synvisor-deb-"))
    subprocess.run(["dpkg-deb", "--raw-extract", deb, built / "tree"], check=True)
    control = built / "tree/DEBIAN/control"
    text = control.read_text(encoding="utf-8")
    control.write_text(text.replace("Version: 0.1.0-1\n", "Version: 0.1.0-2\n"), encoding="utf-8")
    assert control.read_text(encoding="utf-8") != text
    shutil.copy(ROOT / "target/next/synvisor", built / "tree/usr/bin/synvisor")
    # Nobody waits for it to become small.
    build = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", built / "tree", built / "next.deb"]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    return built / "next.deb"


def test_a_package_from_its_installation_to_its_purge(machine: Service) -> None:
    service, root = machine, machine.machine.root
    installed(service)
    in_service(service)
    user = changes_cost_nothing(service)
    assert user.raw("POST", "/_matrix/media/v3/upload", b"text", {"Content-Type": "text/plain"})[0] == 200
    upgraded(service)
    service.systemctl("restart", UNIT)
    service.wait_ready()
    assert user.call("GET", "/_matrix/client/v3/account/whoami")["user_id"] == user.user

    apt(service, "remove", "synvisor")
    assert left(service) == ""
    assert not (root / "usr/bin/synvisor").exists()
    assert not (root / "run/synvisor").exists()
    assert service.toml.exists()
    assert "failed" not in service.systemctl("is-system-running", check=False)

    said = apt(service, "purge", "synvisor")
    assert "rm -r /var/lib/synvisor deletes them" in said
    assert not (root / "etc/synvisor").exists()
    assert {entry.name for entry in (root / "var/lib/synvisor").iterdir()} == KEPT
    assert list((root / "var/lib/synvisor/secrets").iterdir())
    databases = ["runuser", "-u", "postgres", "--", "psql", "-tAc", "SELECT datname FROM pg_database"]
    assert "synvisor" in service.machine.run(*databases).stdout.split()
    packed = service.machine.run("find", "/", "-xdev", "-name", "*synvisor*", "-not", "-path", "/proc/*")
    ours = {"/synvisor.deb", "/next.deb", "/var/lib/synvisor"}
    allowed = ("/var/lib/postgresql", "/var/log", "/tmp", "/root", str(service.venv))
    assert {line for line in packed.stdout.splitlines() if not line.startswith(allowed)} <= ours


def installed(service: Service) -> None:
    """Nothing runs before somebody has said what."""
    root = service.machine.root
    shutil.copy(package("deb"), root / "synvisor.deb")
    apt(service, "update")
    said = apt(service, "install", "--no-install-recommends", "postgresql", "redis-server", "/synvisor.deb")
    assert "systemctl enable --now synvisor" in said
    assert service.state() == "inactive/dead"
    assert service.systemctl("is-enabled", UNIT, check=False) == "disabled\n"
    assert mode(service, "/etc/synvisor") == "750 root:synvisor"
    assert mode(service, "/etc/synvisor/synvisor.toml") == "640 root:synvisor"
    assert service.machine.run("synvisor", "check", check=False).returncode == 0, "as it is shipped"
    for path in (
        "usr/share/man/man1/synvisor.1.gz",
        "usr/share/man/man1/synvisor-self-upgrade.1.gz",
        "usr/share/bash-completion/completions/synvisor",
        "usr/share/zsh/vendor-completions/_synvisor",
        "usr/share/fish/vendor_completions.d/synvisor.fish",
        "usr/share/doc/synvisor/examples/smallest.toml",
        "usr/share/doc/synvisor/third-party-notices",
        "usr/share/synvisor/synvisor.schema.json",
    ):
        assert (root / path).exists(), path


def in_service(service: Service) -> None:
    """The homeserver runs on the database and the Redis of the machine."""
    for command in (
        ["createuser", "synvisor"],
        ["createdb", "--encoding=UTF8", "--locale=C", "--template=template0", "--owner=synvisor", "synvisor"],
    ):
        service.machine.run("runuser", "-u", "postgres", "--", *command)
    service.write()
    service.systemctl("enable", "--now", UNIT)
    service.wait_ready()
    for unit, pid in service.pids().items():
        if pid is not None:
            expected = "synvisor-router" if unit == "router" else "synvisor"
            assert service.machine.run("ps", "-o", "user:32=", "-p", str(pid)).stdout.strip() == expected, (
                unit
            )
    assert mode(service, "/var/lib/synvisor") == "750 synvisor:synvisor"
    assert mode(service, "/var/lib/synvisor/secrets") == "700 synvisor:synvisor"
    journal = service.machine.run("journalctl", "--no-pager", "--output=cat", "--unit", UNIT).stdout
    assert f"serves on 127.0.0.1:{service.port}" in journal
    # Who is in the group steers it, and nobody else.
    service.machine.run("useradd", "--groups", "synvisor", "steward")
    service.machine.run("useradd", "guest")
    service.machine.run("runuser", "-u", "steward", "--", "synvisor", "status")
    refused = service.machine.run("runuser", "-u", "guest", "--", "synvisor", "status", check=False)
    assert refused.returncode == 77, refused


def changes_cost_nothing(service: Service) -> Client:
    """A reload and a SIGKILL of the supervisor."""
    with talking(service) as talk:
        before = service.pids()
        service.units = '[units.generic-1]\nlog_level = "DEBUG"'
        service.write()
        service.systemctl("reload", UNIT)
        talk.goes_on()
        assert moved(before, service.pids()) <= {"generic-1"}
        before = service.pids()
        old = kill(service)
        another_runs(service, old)
        talk.goes_on()
        assert same_but_fork_server(before, service.pids())
    return talk.user


def upgraded(service: Service) -> None:
    """Only supervisor and router are new ones, and the configuration is that of the administrator."""
    before, supervisor, toml = service.pids(), main_pid(service), service.toml.read_bytes()
    shutil.copy(higher(package("deb")), service.machine.root / "next.deb")
    with talking(service) as talk:
        said = apt(service, "install", "/next.deb")
        assert "has taken over from" in said, said
        talk.goes_on()
        service.wait_ready()
    assert main_pid(service) == supervisor
    after = service.pids()
    assert {unit for unit in before if before[unit] != after[unit]} == {"forkserver", "router"}
    state = json.loads((service.machine.root / "run/synvisor/state.json").read_text(encoding="utf-8"))
    assert state["version"] == 2
    assert service.toml.read_bytes() == toml
    assert service.properties("NeedDaemonReload") == {"NeedDaemonReload": "no"}
