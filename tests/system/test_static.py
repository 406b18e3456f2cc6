"""One binary for every Debian: it loads no library, and asks nothing of NSS, where a static libc crashes."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import free_port
from tests.support.toolchain import ROOT, prepare

from .machine import base
from .service import python

# What Debian sets up NSS with where these are installed: passwd, group: systemd; hosts: resolve, myhostname.
NSS = ("libnss-systemd", "libnss-resolve", "libnss-myhostname", "strace", "perl-base")
# `make static` has built them.
STATIC = ROOT / "target/static/synvisor"
UNSTRIPPED = STATIC.with_name("unstripped")

TOML = """server_name = "localhost"
[workers]
generic = 1
[database]
host = "localhost"
port = 1
user = "synapse"
name = "synapse"
[redis]
host = "a-host.invalid"
[python]
venv = "{venv}"
[[listen]]
address = "127.0.0.1:{port}"
"""

# A router is started with its control socket, which only a program can hand it.
ROUTER = """
use IO::Socket::UNIX; use POSIX;
$^F = 255;
my $s = IO::Socket::UNIX->new(Local => "/router.sock", Listen => 5) or die $!;
open(my $l, "+>", "/lock");
POSIX::dup2(fileno($s), 63); POSIX::dup2(fileno($l), 4); POSIX::dup2(63, 3);
exec qw(/usr/bin/synvisor router --supervisor-uid 0 --drain-timeout-ms 100 --incarnation 1);
"""

VERBS = [
    "--help",
    "check",
    "config show",
    "front nginx",
    "schema",
    "version",
    "completions bash",
    "status",
    "plan",
    "generations",
    "reload",
    "rollback",
    "self-upgrade",
    "start main",
    "stop main",
    "restart main",
    "logs main",
    "dump main",
    "routes",
    "route GET /_matrix/client/versions",
    "user list",
    "register-token list",
    "after-stop",
]
# Beside a supervisor that waits for a database which is not there.
SCRIPT = (
    "synvisor supervise & sleep 4; "
    + "".join(f"timeout 5 synvisor {verb}; " for verb in VERBS)
    + "kill %1; wait"
)


def symbols() -> set[str]:
    listed = subprocess.run(["nm", UNSTRIPPED], capture_output=True, text=True, check=True).stdout
    # Without notes that only warn of what others might call.
    return {line.split()[-1] for line in listed.splitlines() if line.split()[-2] in "TtWw"}


def test_nothing_in_it_could_ask_for_an_address() -> None:
    found = symbols()
    assert "main" in found
    assert "getaddrinfo" not in found
    needed = subprocess.run(
        ["readelf", "--dynamic", STATIC], capture_output=True, text=True, check=True
    ).stdout
    assert "NEEDED" not in needed
    print(f"the static binary has {STATIC.stat().st_size} bytes")


@pytest.fixture(scope="module", params=["bullseye", "bookworm", "trixie"])
def root(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The root directory of a release, with a synvisor and whatever makes NSS dangerous."""
    made = base(request.param, NSS, f"{request.param}-nss")
    with tempfile.TemporaryDirectory(prefix="synvisor-root-") as directory:
        copy = Path(directory) / "root"
        subprocess.run(["cp", "--archive", "--reflink=auto", made, copy], check=True)
        shutil.copy(STATIC, copy / "usr/bin/synvisor")
        (copy / "etc/synvisor").mkdir()
        toml = TOML.format(venv=prepare().resolve(), port=free_port())
        (copy / "etc/synvisor/synvisor.toml").write_text(toml, encoding="utf-8")
        (copy / "router.pl").write_text(ROUTER, encoding="utf-8")
        for user in ("synvisor", "synvisor-router"):
            subprocess.run(["chroot", copy, "useradd", "--system", user], check=True)
        yield copy


def traced(root: Path, *command: str) -> tuple[str, list[str]]:
    """What it printed, and what synvisor opened; not what it started opened."""
    shutil.rmtree(root / "trace", ignore_errors=True)
    (root / "trace").mkdir()
    strace = ["strace", "-ff", "-o", "/trace/of", "-e", "trace=execve,open,openat"]
    inside = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe", "--resolv-conf=off"]
    inside += [f"--bind-ro={held}:{seen}" for seen, held in python(prepare().resolve()).items()]
    done = subprocess.run(
        [*inside, "-D", str(root), "timeout", "--signal=TERM", "60", *strace, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    opened = []
    for trace in (root / "trace").iterdir():
        ours = False
        for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
            if started := re.match(r'execve\("([^"]*)".* = 0$', line):
                ours = started[1].endswith("synvisor")
            elif ours and (killed := re.search(r"\+\+\+ killed by (\w+)", line)):
                assert killed[1] == "SIGTERM", (command, line)
            elif ours and (path := re.match(r'open(?:at)?\((?:AT_FDCWD, )?"([^"]*)"', line)):
                opened.append(path[1])
    return done.stdout + done.stderr, opened


def dangerous(opened: list[str]) -> list[str]:
    return [path for path in opened if "libnss_" in path or path.endswith(("nsswitch.conf", ".so.6"))]


def test_no_verb_asks_nss(root: Path) -> None:
    assert "systemd" in (root / "etc/nsswitch.conf").read_text(encoding="utf-8")
    said, opened = traced(root, "bash", "-c", SCRIPT)
    assert dangerous(opened) == [], said
    assert "/etc/passwd" in opened, said
    # The interpreter of the tests does not run on the oldest one, where a supervisor has nobody to start.
    if "cannot open shared object file" not in said:
        assert "/etc/hosts" in opened
        assert "a-host.invalid cannot be resolved" in said


def test_a_router_asks_nss_for_nothing(root: Path) -> None:
    said, opened = traced(root, "timeout", "3", "perl", "/router.pl")
    assert opened, said
    assert dangerous(opened) == [], said
