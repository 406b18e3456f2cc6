"""The .rpm: what is in it, and what its scriptlets do, by the rpm of Debian."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.matrix import Client
from tests.support.toolchain import ROOT

from .machine import online, suites
from .service import UNIT, Service, package
from .test_package import apt, mode
from .test_survive import left, main_pid, talking

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def machine() -> Iterator[Service]:
    service = Service(suites()[-1])
    try:
        service.machine.boot()
        online(service.machine)
        apt(service, "update")
        apt(service, "install", "--no-install-recommends", "rpm")
        yield service
    finally:
        service.close()


def rpm(service: Service, *arguments: str, check: bool = True) -> str:
    done = service.machine.run("rpm", *arguments, check=check)
    return done.stdout + done.stderr


def higher() -> Path:
    """The same package a release higher."""
    place = Path(tempfile.mkdtemp(prefix="synvisor-rpm-"))
    defined = {"source": ROOT, "_topdir": place, "number": 2, "payload": "w0.ufdio"}
    command: list[str] = ["rpmbuild", "-bb", "--quiet", str(ROOT / "packaging/synvisor.spec")]
    for name, value in defined.items():
        command += ["--define", f"{name} {value}"]
    subprocess.run(command, check=True)
    return next(place.glob("RPMS/*/synvisor-*-2.*.rpm"))


def test_an_rpm_from_its_installation_to_its_removal(machine: Service) -> None:
    service, root = machine, machine.machine.root
    shutil.copy(package("rpm"), root / "synvisor.rpm")
    listed = rpm(service, "-qlp", "/synvisor.rpm").splitlines()
    assert "/usr/share/man/man1/synvisor.1" in listed
    assert "/usr/share/zsh/site-functions/_synvisor" in listed
    assert "/usr/share/licenses/synvisor/third-party-notices" in listed
    required = rpm(service, "-qp", "--requires", "/synvisor.rpm")
    assert "systemd >= 252" in required
    assert "GNU_HASH" not in required, "the program needs no library"
    assert "systemctl enable --now synvisor" in rpm(service, "-i", "--nodeps", "/synvisor.rpm")
    assert rpm(service, "-V", "synvisor", "--nodeps", check=False).split() == []
    assert mode(service, "/etc/synvisor") == "750 root:synvisor"
    assert mode(service, "/etc/synvisor/synvisor.toml") == "640 root:synvisor"
    assert service.state() == "inactive/dead"

    service.write()
    service.systemctl("enable", "--now", UNIT)
    service.wait_ready()
    before, supervisor = service.pids(), main_pid(service)
    shutil.copy(higher(), root / "next.rpm")
    with talking(service) as talk:
        assert "has taken over from" in rpm(service, "-U", "--nodeps", "/next.rpm")
        talk.goes_on()
        service.wait_ready()
    assert main_pid(service) == supervisor
    after = service.pids()
    assert {unit for unit in before if before[unit] != after[unit]} == {"forkserver", "router"}
    assert "c /etc/synvisor/synvisor.toml" in rpm(service, "-V", "synvisor", "--nodeps", check=False)
    assert "versions" in Client(service.port).call("GET", "/_matrix/client/versions")

    rpm(service, "-e", "synvisor")
    assert left(service) == ""
    assert service.systemctl("is-enabled", UNIT, check=False) != "enabled\n"
    assert service.toml.with_name("synvisor.toml.rpmsave").exists()
    assert (root / "var/lib/synvisor/secrets/signing.key").exists()
