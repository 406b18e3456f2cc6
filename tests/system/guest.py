"""A machine with a kernel of its own (User-Mode Linux), for what a container does not have.

That is limits of memory, filters of addresses, and more descriptors than the host allows. It is slow, has one
CPU and no network but loopback.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path

from tests.support.deployment import wait_for
from tests.support.toolchain import install_packages

from .machine import ENVIRONMENT

SHARE = "/host"
MOUNT = f"""[Mount]
What=none
Where={SHARE}
Type=hostfs
"""
# Runs what is left for it, and leaves what came of it.
AGENT = f"""[Unit]
RequiresMountsFor={SHARE}
[Service]
ExecStart=/bin/sh {SHARE}/agent
KillMode=process
"""
LOOP = f"""cd {SHARE} || exit
while :; do
    for order in *.order; do
        [ -e "$order" ] || continue
        name=${{order%.order}}
        mv "$order" "$name.begun"
        (
            sh "$name.begun" >"$name.stdout" 2>"$name.stderr" </dev/null
            echo $? >"$name.end"
            mv "$name.end" "$name.over"
        ) &
    done
    sleep 0.1
done
"""


class Guest:
    """One machine, from boot to power-off."""

    def __init__(self, tree: Path) -> None:
        """`tree` is what it begins with, beside what lets it be talked to."""
        self.tree = tree
        self.directory = Path(tempfile.mkdtemp(prefix="synvisor-guest-"))
        self.share = self.directory / "share"
        self.console = self.directory / "console"
        self.process: subprocess.Popen[bytes] | None = None

    def boot(self) -> Guest:
        """Returns when systemd has nothing more to start."""
        programs = {"linux.uml": "user-mode-linux", "mke2fs": "e2fsprogs"}
        if missing := [package for program, package in programs.items() if shutil.which(program) is None]:
            install_packages(missing)
        units = self.tree / "etc/systemd/system"
        (units / "host.mount").write_text(MOUNT, encoding="utf-8")
        (units / "agent.service").write_text(AGENT, encoding="utf-8")
        wanted = units / "multi-user.target.wants/agent.service"
        wanted.parent.mkdir(exist_ok=True)
        wanted.unlink(missing_ok=True)
        wanted.symlink_to("../agent.service")
        (self.tree / "host").mkdir(exist_ok=True)
        self.share.mkdir()
        (self.share / "agent").write_text(LOOP, encoding="utf-8")
        disk = self.directory / "disk"
        made = ["mke2fs", "-q", "-t", "ext4", "-d", str(self.tree), str(disk), "3G"]
        subprocess.run(made, check=True, capture_output=True)
        kernel = ["linux.uml", "mem=1400M", f"ubd0={disk}", "root=/dev/ubda", "rw", f"hostfs={self.share}"]
        kernel += ["con=null", "con0=null,fd:1", "init=/lib/systemd/systemd", "systemd.log_color=0"]
        # It has no modules.
        kernel += ["systemd.mask=systemd-modules-load.service"]
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *kernel],
                env={**ENVIRONMENT, "TMPDIR": str(self.directory)},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self.run("systemctl", "is-system-running", "--wait", check=False, seconds=300)
        return self

    def run(
        self, *command: str, check: bool = True, seconds: float = 180
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in the machine, as root, to its end."""
        name = uuid.uuid4().hex
        order = self.share / f"{name}.order"
        variables = [f"{key}={value}" for key, value in ENVIRONMENT.items()]
        (self.share / name).write_text(shlex.join(["env", "-i", *variables, *command]), encoding="utf-8")
        (self.share / name).rename(order)
        over = self.share / f"{name}.over"

        def ended() -> bool | None:
            assert self.process
            assert self.process.poll() is None, (
                f"it ended:\n{self.console.read_text(errors='replace')[-4000:]}"
            )
            return True if over.exists() else None

        wait_for(f"the end of {shlex.join(command)}", ended, seconds)
        stdout, stderr = [
            (self.share / f"{name}.{stream}").read_text(encoding="utf-8", errors="replace")
            for stream in ("stdout", "stderr")
        ]
        done = subprocess.CompletedProcess(command, int(over.read_text()), stdout, stderr)
        assert not check or done.returncode == 0, done
        return done

    def stop(self) -> None:
        """Switches it off: nothing of it is needed any more."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.directory)
