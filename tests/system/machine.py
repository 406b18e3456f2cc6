"""A fresh Debian with systemd as its first process, in a container, to test the service as it is shipped.

It has the kernel, network and loopback of the host, and process and cgroup trees of its own. The root file
system of a release is made once, from the mirror of the host's apt; what a machine writes is in memory, and
gone with it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.deployment import ROOT_USER, children, wait_for
from tests.support.toolchain import install_packages, say, work_directory

# Beside systemd: ps, and the libraries of the host's virtualenv and its interpreter.
PACKAGES: tuple[str, ...] = ("systemd", "systemd-sysv", "dbus", "ca-certificates", "procps")
PACKAGES += ("libexpat1", "libffi8", "libpq5", "libsqlite3-0", "zlib1g")
BASES = work_directory() / "system"
# How the host's apt reaches its mirror.
INHERITED = ("Acquire::http", "Acquire::Check-")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "SYSTEMD_PAGER": "",
}


def asked(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def suites() -> list[str]:
    """Releases to test on: the host's own and, with another systemd, the one after it."""
    own = platform.freedesktop_os_release().get("VERSION_CODENAME", "unknown")
    # What was built on a newer one would not run on an older one.
    return [own, "trixie"] if own == "bookworm" else [own]


def mirror() -> str:
    """Where the host's apt has its own release from."""
    suite = suites()[0]
    command = ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"]
    for line in asked(*command):
        release, _, address = line.partition(" ")
        if release == suite:
            return address
    raise AssertionError(f"the host's apt has no source for {suite}: add it to /etc/apt/sources.list")


def base(suite: str, packages: tuple[str, ...] = PACKAGES, name: str = "") -> Path:
    """The root file system that machines begin with, made if need be."""
    if not ROOT_USER:
        pytest.skip("only root can make a root directory and boot it")
    name = name or suite
    directory = BASES / name
    mark = BASES / f"{name}.complete"
    if mark.exists() and mark.read_text(encoding="utf-8") == " ".join(packages):
        return directory
    programs = {"mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container"}
    if missing := [package for program, package in programs.items() if shutil.which(program) is None]:
        install_packages(missing)
    begun = time.monotonic()
    say(f"preparing a Debian {suite} in {directory} (about a minute, once)")
    mark.unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
    BASES.mkdir(parents=True, exist_ok=True)
    if name != suite and suite in suites():
        # Sooner than from nothing.
        subprocess.run(["cp", "--archive", "--reflink=auto", base(suite), directory], check=True)
        inside = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe"]
        inside += ["--setenv=DEBIAN_FRONTEND=noninteractive", "-D", str(directory)]
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            carried_out(*inside, "apt-get", "--quiet", *command)
    else:
        bootstrap(suite, directory, packages)
    mark.write_text(" ".join(packages), encoding="utf-8")
    say(f"the Debian is ready ({time.monotonic() - begun:.0f} s)")
    return directory


def bootstrap(suite: str, directory: Path, packages: tuple[str, ...]) -> None:
    """Makes a root file system from nothing."""
    settings = [line for line in asked("apt-config", "dump") if line.startswith(INHERITED)]
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"]
    # Nothing has to survive a power cut.
    command += ["--dpkgopt=force-unsafe-io", *(f"--aptopt={line}" for line in settings)]
    carried_out(*command, suite, directory, mirror())
    (directory / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n", encoding="utf-8")
    # Each machine gets one of its own when it boots.
    (directory / "etc/machine-id").write_text("", encoding="utf-8")


def carried_out(*command: object) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"


def unified() -> Path:
    """Where the second version of cgroups is mounted, which systemd in the machine wants."""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise AssertionError("cgroup2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")


class Machine:
    """One machine, from boot to power-off."""

    def __init__(self, suite: str, readable: dict[Path, Path]) -> None:
        """`readable` is where it sees what of the host."""
        self.base, self.readable = base(suite), readable
        self.directory = Path(tempfile.mkdtemp(prefix="synvisor-machine-"))
        self.console = self.directory / "console"
        self.cgroup = unified() / self.directory.name
        self.process: subprocess.Popen[bytes] | None = None

    def boot(self) -> Machine:
        """Returns when systemd has nothing more to start."""
        # A cgroup of its own, so that two machines do not meet.
        self.cgroup.mkdir()
        binds = [f"--bind-ro={held}:{seen}" for seen, held in self.readable.items()]
        command = ["systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"]
        command += ["--hostname=machine", "--resolv-conf=off", "--volatile=overlay"]
        command += [*binds, "-D", str(self.base)]
        entering = f'echo $$ >"{self.cgroup}/cgroup.procs" && exec "$@"'
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(
                # Whatever becomes of the tests, it goes down with them.
                ["setpriv", "--pdeathsig=TERM", "sh", "-c", entering, "sh", *command],
                env={**ENVIRONMENT, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )

        def up() -> str | None:
            assert self.process
            assert self.process.poll() is None, f"it ended while it booted:\n{self.console.read_text()}"
            if self.init() is None:
                return None
            state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            return state if state in ("running", "degraded") else None

        if wait_for("the machine is up", up) == "degraded":
            failed = self.run("systemctl", "--failed", "--plain", "--no-legend").stdout
            raise AssertionError(f"units of the machine failed:\n{failed}")
        return self

    def init(self) -> int | None:
        """The host's pid of its first process."""
        assert self.process
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
                if len(numbers) == 3 and numbers[2] == "1":
                    return pid
        return None

    @property
    def root(self) -> Path:
        """Its root directory, seen from the host."""
        return Path(f"/proc/{self.init()}/root")

    def entering(self, *command: str) -> list[str]:
        """A command of the host's that becomes this one in the machine, as root."""
        init = self.init()
        assert init, f"the machine is down:\n{self.console.read_text()}"
        # First into a cgroup of the machine, since nsenter leaves the process in that of the tests.
        entering = f'echo $$ >"{self.cgroup}/payload/init.scope/cgroup.procs" && exec "$@"'
        return ["sh", "-c", entering, "sh", "nsenter", "-t", str(init), "-a", "--", *command]

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Begins a command in the machine, as root."""
        return subprocess.Popen(
            self.entering(*command),
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *command: str, check: bool = True, seconds: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in the machine, as root, to its end."""
        process = self.start(*command)
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
        assert not check or done.returncode == 0, done
        return done

    def stop(self) -> None:
        """Powers it off."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=120)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process = None
        # nspawn makes the same cgroup in the hierarchy of systemd's first version, where there is one.
        for hierarchy in {unified(), Path("/sys/fs/cgroup/systemd")}:
            ours = hierarchy / self.cgroup.name
            if ours.is_dir():
                for directory, _, _ in os.walk(ours, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(directory)
        shutil.rmtree(self.directory)


def online(machine: Machine) -> None:
    """Lets a machine find, and trust, whom the host does."""
    for file in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(os.path.realpath(file), machine.root / file.removeprefix("/"))
