"""The fork server: what it makes, and what happens without it, when it hangs, or does not know Synapse."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import Deployment, command_line, deployed, over_unix_socket, wait_for

WORKERS = "generic = 2\ntyping = 1"
SYNAPSE = ("main", "generic-1", "generic-2", "typing-1")


@pytest.fixture(scope="module")
def home() -> Iterator[Deployment]:
    with deployed(WORKERS) as deployment:
        yield deployment


def made(home: Deployment) -> dict[str, str]:
    status = home.status()
    assert status
    return {unit["name"]: unit["made"] for unit in status["units"] if "made" in unit}


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def restart(home: Deployment, *arguments: str) -> None:
    done = home.cli("restart", *arguments)
    assert done.returncode == 0, done


def test_processes_are_forked_and_are_the_supervisors_own(home: Deployment) -> None:
    assert made(home) == dict.fromkeys(SYNAPSE, "forked")
    assert home.process
    for name in SYNAPSE:
        pid = home.unit(name)["pid"]
        assert parent(pid) == home.process.pid
        assert command_line(pid).startswith(f"synapse: {name} ")


def test_a_process_has_its_own_sockets_and_nothing_of_the_supervisors(home: Deployment) -> None:
    inodes = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        # The flag of a socket that listens (include/uapi/linux/net.h, __SO_ACCEPTCON).
        if len(fields) == 8 and int(fields[3], 16) & 0x10000:
            inodes[fields[6]] = fields[7]
    for name in SYNAPSE:
        targets = [os.readlink(link) for link in Path(f"/proc/{home.unit(name)['pid']}/fd").iterdir()]
        sockets = {target[8:-1] for target in targets if target.startswith("socket:[")}
        listening = {Path(inodes[inode]) for inode in sockets if inode in inodes}
        assert listening == {home.run / part / f"{name}.sock" for part in ("client", "private")}


def test_connections_wait_while_a_process_restarts_and_are_refused_while_it_is_stopped(
    home: Deployment,
) -> None:
    path = home.run / "private" / "generic-1.sock"
    inode = path.stat().st_ino
    restart(home, "generic-1")
    assert path.stat().st_ino == inode, "the socket is the same before and after"
    assert home.cli("stop", "generic-1").returncode == 0
    assert not path.exists()
    assert home.cli("start", "generic-1").returncode == 0
    assert "process_start_time_seconds" in home.metrics("generic-1")


# Mutation: READY let through before the connection (readiness.py): seen red.
def test_a_process_is_ready_only_when_it_is_connected_to_redis(home: Deployment) -> None:
    redis, old = home.unit("redis")["pid"], home.unit("generic-1")["pid"]
    log = home.state / "logs" / "generic-1.log"
    os.kill(redis, signal.SIGSTOP)
    try:
        os.kill(old, signal.SIGKILL)
        size = log.stat().st_size
        freezing = "Freezing all allocated objects"
        wait_for("the process to be up", lambda: True if freezing in log.read_text()[size:] else None)
        # Both have answered often enough for the supervisor to have asked, and heard, had it been told READY.
        for _ in range(20):
            assert over_unix_socket(home.run / "private" / "generic-1.sock", "GET", "/health")[0] == 200
            assert home.unit("generic-1")["state"] == "starting"
    finally:
        os.kill(redis, signal.SIGCONT)
    wait_for("READY", lambda: True if home.unit("generic-1")["state"] == "ready" else None)


def test_what_it_made_outlives_it(home: Deployment) -> None:
    before = home.pids()
    assert (pid := before["forkserver"])
    os.kill(pid, signal.SIGKILL)

    def another() -> bool | None:
        unit = home.unit("forkserver")
        return True if unit["state"] == "ready" and unit["pid"] != pid else None

    wait_for("another fork server", another)
    after = home.pids()
    assert {name for name in before if before[name] != after[name]} == {"forkserver"}
    restart(home, "generic-1")
    assert made(home) == dict.fromkeys(SYNAPSE, "forked")


def test_one_that_hangs_is_replaced_and_keeps_nobody_from_starting(home: Deployment) -> None:
    pid = home.unit("forkserver")["pid"]
    os.kill(pid, signal.SIGSTOP)
    restart(home, "generic-1")
    assert home.unit("forkserver")["pid"] != pid
    home.wait_ready()
    assert made(home)["generic-1"] == "executed"
    table = home.cli("status").stdout
    assert "started without the fork server" in table
    restart(home, "generic-1")
    assert made(home)["generic-1"] == "forked"


@pytest.mark.parametrize("part, way", [("forkserver", "executed"), ("bootstrap", "plain")])
def test_there_is_a_way_without_it(part: str, way: str) -> None:
    with deployed(WORKERS, without=(part,)) as home:
        assert set(made(home).values()) == {way}
        table = home.cli("status").stdout
        assert ("slow" if way == "plain" else "without the fork server") in table
        user = home.client().register("alice", "a password")
        room = user.create_room()
        for arguments in (("generic-1",), ("--all",), ("--all", "--at-once")):
            user.send(room, f"before {arguments}")
            restart(home, *arguments)
            user.send(room, f"after {arguments}")
        assert len(user.messages(room)) == 6
        assert set(made(home).values()) == {way}


def overlaid(venv: Path, directory: Path, statement: str) -> Path:
    """A virtualenv with everything of another one, in which Python begins with a statement."""
    subprocess.run([venv / "bin" / "python", "-m", "venv", "--without-pip", directory], check=True)
    below = next((venv / "lib").glob("python3.*/site-packages"))
    own = next((directory / "lib").glob("python3.*/site-packages"))
    (own / "below.pth").write_text(f"{below}\n{statement}\n")
    return directory


def test_what_pip_has_installed_since_is_what_a_restart_starts() -> None:
    # Mutation: the virtualenv not looked at (`look_at_virtualenv`, src/run/births.rs): seen red (the old one
    # forks on).
    home = Deployment("generic = 1")
    try:
        home.venv = overlaid(home.venv, home.directory / "venv", "")
        modules = next((home.venv / "lib").glob("python3.*/site-packages"))
        written = modules / "probe-1.dist-info"
        written.mkdir()
        home.write()
        home.start().wait_ready()
        server = home.unit("forkserver")["pid"]
        restart(home, "generic-1")
        assert home.unit("forkserver")["pid"] == server
        written.rename(modules / "probe-2.dist-info")
        restart(home, "generic-1")
        home.wait_ready()
        assert home.unit("forkserver")["pid"] != server
        restart(home, "generic-1")
        assert made(home)["generic-1"] == "forked"
    finally:
        home.close()


def test_one_that_takes_long_is_waited_for_as_long_as_it_works() -> None:
    # Mutation: `cpu_time` (src/sys/clock.rs) of nothing: seen red (it is replaced for ever).
    home = Deployment("generic = 1")
    try:
        home.venv = overlaid(home.venv, home.directory / "venv", "import slow")
        modules = next((home.venv / "lib").glob("python3.*/site-packages"))
        # Longer than one may say nothing (`SILENCE` in src/forkserver/mod.rs).
        (modules / "slow.py").write_text(
            "import sys, time\n"
            "end = time.monotonic() + 30 * ('server' in sys.orig_argv)\n"
            "while time.monotonic() < end:\n"
            "    sum(range(99_999))\n"
            "    time.sleep(0.01)\n"
        )
        home.write()
        home.start().wait_ready()
        assert home.unit("forkserver")["restarts"] == 0
        assert set(made(home).values()) == {"forked"}
    finally:
        home.close()


@pytest.mark.parametrize("without", [(), ("forkserver",)])
def test_a_synapse_that_is_not_recognised_is_started_plainly(without: tuple[str, ...]) -> None:
    home = Deployment("generic = 1", without=without)
    try:
        # With this Synapse installs another reactor than the one whose inner life the bootstrap knows.
        statement = "import os; os.environ['SYNAPSE_ASYNC_IO_REACTOR'] = '1'"
        home.venv = overlaid(home.venv, home.directory / "venv", statement)
        home.write()
        home.start().wait_ready()
        assert set(made(home).values()) == {"plain"}
        assert "reactor" in home.cli("status").stdout
        assert "versions" in home.client().call("GET", "/_matrix/client/versions")
    finally:
        home.close()
