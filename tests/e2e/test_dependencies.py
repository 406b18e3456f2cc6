"""What synvisor depends on goes away and is back: services, room on the disk, sockets, time, descriptors."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.services import Services
from tests.support.deployment import ROOT_USER, Deployment, deployed, over_unix_socket, wait_for
from tests.support.matrix import Client
from tests.support.toolchain import prepare

pytestmark = pytest.mark.timeout(900)

needs_root = pytest.mark.skipif(not ROOT_USER, reason="only root can mount file systems")


def ticks(pid: int) -> int:
    """CPU time of a process so far, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@contextlib.contextmanager
def idle(home: Deployment, *units: str, share: float = 0.25) -> Iterator[None]:
    """Neither the supervisor nor these units turn in circles meanwhile: that would take all of a CPU."""
    assert home.process
    pids = home.pids()
    watched = {"supervisor": home.process.pid} | {unit: pids[unit] for unit in units}
    before = {name: ticks(pid) for name, pid in watched.items() if pid}
    begun = time.monotonic()
    yield
    took = (time.monotonic() - begun) * 100
    used = {name: ticks(pid) - before[name] for name, pid in watched.items() if pid}
    print(f"of {took:.0f} ticks: {used}")
    assert all(ticks < max(50, share * took) for ticks in used.values()), (used, took)


def of(home: Deployment, unit: str, state: str, reason: str = "") -> dict[str, Any]:
    """Waits until a unit is in a state, for a reason."""

    def found() -> dict[str, Any] | None:
        unit_ = home.unit(unit)
        return unit_ if unit_["state"] == state and reason in (unit_["reason"] or "") else None

    try:
        return wait_for(f"{unit} {state} {reason}", found)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{home.cli('status').stdout}\n{home.tail()}") from None


def log(home: Deployment) -> str:
    """What the supervisor itself has said."""
    return home.tail(10**8)


def conversation(alice: Client, room: str, text: str) -> None:
    alice.send(room, text)
    alice.wait_for_message(room, text)


# ── services that are not ours ──


class Stoppable(Services):
    """PostgreSQL and Valkey that go away and come back."""

    def stop(self, which: int) -> list[str]:
        process = self.processes[which]
        command = [str(word) for word in process.args]
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        return command

    def begin(self, which: int, command: list[str]) -> None:
        self.processes[which] = self.start(*command)


@pytest.fixture(scope="module")
def outside() -> Iterator[tuple[Deployment, Stoppable]]:
    services = Stoppable(prepare())
    home = Deployment("generic = 1\nevents = 1", services=services.toml())
    try:
        yield home.start().wait_ready(), services
    finally:
        home.close()
        services.close()


@pytest.mark.parametrize(("which", "unit", "name"), [(0, "postgres", "PostgreSQL"), (1, "redis", "Redis")])
def test_a_service_of_somebody_else_goes_and_comes_back(
    outside: tuple[Deployment, Stoppable], which: int, unit: str, name: str
) -> None:
    home, services = outside
    alice = home.client().register(f"alice-{unit}", "a password")
    room = alice.create_room()
    conversation(alice, room, "before")
    before, said = home.pids(), log(home).count(f"{unit} is away: ")
    restarts = home.unit("generic-1")["restarts"]
    starts = log(home).count(f"{unit} is ready")
    command = services.stop(which)
    with idle(home, "router", "main"):
        of(home, unit, "away", f"{name} at ")
        away = of(home, unit, "away", "cannot be reached")
        assert (away["restarts"], away["pid"]) == (0, None)
        # What runs is let be.
        assert home.pids() == before
        # What has to start waits, and has not failed.
        victim = before["generic-1"]
        assert victim
        os.kill(victim, signal.SIGKILL)
        of(home, "generic-1", "waiting", f"waits for {unit}")
        # A change that would take somebody down is refused, which touches nobody.
        edited = home.toml.read_text()
        home.toml.write_text(edited.replace("[synapse]", "[synapse]\nmax_upload_size = '7M'", 1))
        done = home.cli("reload")
        home.toml.write_text(edited)
        assert done.returncode == 1, done
        assert f"{unit} is away, and nobody could start" in done.stderr
        main = home.unit("main")
        assert (main["state"], main["pid"]) == ("ready", before["main"])
    services.begin(which, command)
    home.wait_ready()
    after = home.pids()
    assert {unit for unit in before if before[unit] != after[unit]} == {"generic-1"}
    assert home.unit("generic-1")["restarts"] == restarts + 1
    back = home.unit(unit)
    assert (back["reason"], back["restarts"]) == (None, 0)
    assert log(home).count(f"{unit} is away: ") == said + 1
    assert log(home).count(f"{unit} is ready") == starts + 1
    # Through main, a worker, and from one to the other.
    wait_for("everybody is served again", lambda: served(alice, room))
    conversation(alice, room, "after")
    bob = home.client().register(f"bob-{unit}", "a password")
    alice.invite(room, bob.user)
    bob.join(room)
    conversation(bob, room, "hello")


def served(alice: Client, room: str) -> bool | None:
    try:
        alice.send(room, "again")
        alice.sync()
    except Exception:
        return None
    return True


def test_a_service_of_ours_that_is_killed_is_back_and_everybody_goes_on() -> None:
    with deployed("generic = 1") as home:
        alice = home.client().register("alice", "a password")
        room = alice.create_room()
        for unit in ("redis", "postgres"):
            before = home.pids()
            victim = before[unit]
            assert victim
            with idle(home, "router"):
                os.kill(victim, signal.SIGKILL)
                wait_for(
                    f"{unit} is back", lambda u=unit, b=before: (home.pids()[u] not in (None, b[u])) or None
                )
                home.wait_ready()
            after = home.pids()
            assert {name for name in before if before[name] != after[name]} == {unit}
            wait_for("everybody is served again", lambda: served(alice, room))
            conversation(alice, room, f"after {unit}")


# ── room on the disk ──


@contextlib.contextmanager
def mounted(path: Path, size: str) -> Iterator[None]:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(directory: Path) -> Path:
    """Leaves no room at all on a file system."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)
    return filler


@pytest.fixture(scope="module")
def on_small_disks() -> Iterator[Deployment]:
    services = Services(prepare())
    home = Deployment("generic = 1", services=services.toml())
    try:
        with mounted(home.state, "48m"), mounted(home.run, "1m"):
            try:
                yield home.start().wait_ready()
            finally:
                home.stop()
    finally:
        home.close()
        services.close()


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Whoever opens something in it from now on cannot write; more is not had while files are open."""
    subprocess.run(["mount", "--bind", str(directory), str(directory)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(directory)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()}


@needs_root
def test_a_full_disk_changes_nothing_and_says_where(on_small_disks: Deployment) -> None:
    home = on_small_disks
    before = home.pids()
    was = {name: contents(home.state / name) for name in ("config", "generations")}
    good = home.toml.read_text()
    filler = fill(home.state)
    try:
        home.toml.write_text(good.replace("[synapse]", "[synapse]\nmax_upload_size = '7M'", 1))
        with idle(home, "router"):
            done = home.cli("reload")
            assert done.returncode == 1, done
            assert "nothing was changed" in done.stderr
            assert f"cannot write {home.state}/" in done.stderr
            assert "No space left on device" in done.stderr
            assert "make room on its file system: df -h" in done.stderr
            assert {name: contents(home.state / name) for name in was} == was
            assert not list((home.state / "check").iterdir())
            assert home.pids() == before
            # Who ends meanwhile is back all the same.
            victim = before["generic-1"]
            assert victim
            os.kill(victim, signal.SIGKILL)
            wait_for("generic-1", lambda: (home.pids()["generic-1"] not in (None, victim)) or None)
            home.wait_ready()
            assert "versions" in home.client().call("GET", "/_matrix/client/versions")
    finally:
        filler.unlink()
    done = home.cli("reload")
    assert done.returncode == 0, done
    assert len(contents(home.state / "generations")) == len(was["generations"]) + 2
    home.toml.write_text(good)
    assert home.cli("reload").returncode == 0


@needs_root
def test_a_full_run_directory_keeps_nobody_from_work(on_small_disks: Deployment) -> None:
    home = on_small_disks
    home.wait_ready()
    state = home.run / "state.json"
    filler = fill(home.run)
    try:
        was = state.read_bytes()
        victim = home.pids()["generic-1"]
        assert victim
        with idle(home, "router"):
            os.kill(victim, signal.SIGKILL)
            wait_for("generic-1", lambda: (home.pids()["generic-1"] not in (None, victim)) or None)
            home.wait_ready()
            status = home.status()
            assert status
            (note,) = [note for note in status["notes"] if "would not find every process" in note]
            assert f"cannot write {state}" in note
            assert "make room" in note
        assert state.read_bytes() == was, "the old one, whole"
        assert not (home.run / "state.json.new").exists()
    finally:
        filler.unlink()
    # Nothing has to happen for that.
    wait_for(
        "what is kept is right again", lambda: (str(home.pids()["generic-1"]) in state.read_text()) or None
    )
    status = home.status()
    assert status
    assert not [note for note in status["notes"] if "would not find" in note]
    assert log(home).count("a supervisor that takes over would not find") <= 2


@needs_root
def test_a_read_only_disk_changes_nothing_and_says_where(on_small_disks: Deployment) -> None:
    home = on_small_disks
    home.wait_ready()
    before, good = home.pids(), home.toml.read_text()
    with read_only(home.state), idle(home, "router"):
        home.toml.write_text(good.replace("[synapse]", "[synapse]\nmax_upload_size = '7M'", 1))
        done = home.cli("reload")
        assert done.returncode == 1, done
        assert "nothing was changed" in done.stderr
        assert f" {home.state}/" in done.stderr
        assert "Read-only file system" in done.stderr
        assert "remount,rw" in done.stderr
        # Who cannot be started says why.
        victim = before["generic-1"]
        assert victim
        os.kill(victim, signal.SIGKILL)
        found = of(home, "generic-1", "backoff", f"cannot open {home.state}/logs/generic-1.log")
        assert "remount,rw" in found["reason"]
        after = home.pids()
        assert {unit for unit in before if before[unit] != after[unit]} == {"generic-1"}
        assert "versions" in home.client().call("GET", "/_matrix/client/versions")
    home.wait_ready()
    done = home.cli("reload")
    assert done.returncode == 0, done
    home.toml.write_text(good)
    assert home.cli("reload").returncode == 0
    # A start on it says what is wrong, and what to do.
    home.stop()
    with read_only(home.state):
        done = subprocess.run(home.command("supervise"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done
    (said, remedy) = [line for line in done.stderr.splitlines() if line.strip()][-2:]
    assert re.search(f"cannot .* {home.state}.*Read-only file system", said), done.stderr
    assert "remount,rw" in remedy
    home.start().wait_ready()


# ── sockets ──


@pytest.fixture(scope="module")
def home() -> Iterator[Deployment]:
    with deployed("generic = 1", extra='health_timeout = "2s"') as deployment:
        yield deployment


def removed(path: Path) -> None:
    """Removes a socket, and waits until there is one again."""
    before = path.stat()
    path.unlink()
    # An inode may come again, its time does not.
    wait_for(
        f"{path} again", lambda: (path.is_socket() and path.stat().st_ctime_ns != before.st_ctime_ns) or None
    )


@pytest.mark.parametrize("name", ["control.sock", "notify.sock", "forkserver.sock"])
def test_a_socket_of_the_supervisor_that_was_removed_is_bound_again(home: Deployment, name: str) -> None:
    before = home.pids()
    path = home.run / name
    mode = path.stat().st_mode, path.stat().st_uid
    said = log(home).count(f"{path} was removed by somebody and is bound again")
    removed(path)
    assert (path.stat().st_mode, path.stat().st_uid) == mode
    assert home.pids() == before
    assert log(home).count(f"{path} was removed by somebody and is bound again") == said + 1
    # It does what it is for.
    victim = before["forkserver" if name == "forkserver.sock" else "generic-1"]
    assert victim
    os.kill(victim, signal.SIGKILL)
    wait_for("another process", lambda: (victim not in home.pids().values()) or None)
    home.wait_ready()
    assert home.cli("restart", "generic-1").returncode == 0
    assert home.unit("generic-1")["made"] == "forked"


def test_who_said_ready_to_a_socket_that_was_removed_is_heard(home: Deployment) -> None:
    path = home.run / "notify.sock"
    victim = home.pids()["generic-1"]
    assert victim
    path.unlink()
    os.kill(victim, signal.SIGKILL)
    wait_for("the socket", lambda: path.is_socket() or None)
    wait_for("another process", lambda: (home.pids()["generic-1"] not in (None, victim)) or None)
    home.wait_ready()


@pytest.mark.parametrize("directory", ["client", "private"])
@pytest.mark.parametrize("unit", ["generic-1", "main"])
def test_a_socket_of_a_unit_that_was_removed_is_bound_again(
    home: Deployment, unit: str, directory: str
) -> None:
    before, restarts = home.pids(), home.unit(unit)["restarts"]
    path = home.run / directory / f"{unit}.sock"
    removed(path)
    home.wait_ready()
    after = home.pids()
    assert {name for name in before if before[name] != after[name]} == {unit}
    # As planned, and not for want of an answer.
    assert home.unit(unit)["restarts"] == restarts
    assert f"{unit}: {path} was removed by somebody: it restarts to have it again" in log(home)
    if directory == "private":
        assert over_unix_socket(path, "GET", "/health")[0] == 200
    assert "versions" in home.client().call("GET", "/_matrix/client/versions")


def test_the_socket_of_a_router_that_was_removed_comes_with_the_next_router(home: Deployment) -> None:
    before = home.pids()
    unit = home.unit("router")
    path = home.run / f"router-{unit['incarnation']}.sock"
    held = socket.create_connection(("127.0.0.1", home.port))
    path.unlink()
    wait_for("another router", lambda: (home.pids()["router"] not in (None, before["router"])) or None)
    home.wait_ready()
    after = home.pids()
    assert {name for name in before if before[name] != after[name]} == {"router"}
    # Who was connected is still answered.
    held.sendall(b"GET /_matrix/client/versions HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"200" in held.recv(1000).splitlines()[0]
    held.close()
    # A supervisor that takes over finds the router.
    home.kill()
    home.start().wait_ready()
    assert home.pids()["router"] == after["router"]
    assert home.cli("restart", "generic-1").returncode == 0


@pytest.mark.parametrize(
    ("unit", "name"), [("redis", "redis/redis.sock"), ("postgres", "postgres/.s.PGSQL.5432")]
)
def test_a_socket_of_an_embedded_service_that_was_removed_comes_with_its_restart(
    home: Deployment, unit: str, name: str
) -> None:
    before = home.pids()
    removed(home.run / name)
    home.wait_ready()
    after = home.pids()
    assert {name for name in before if before[name] != after[name]} == {unit}
    alice = home.client()
    wait_for("everybody is served again", lambda: registered(alice))


def registered(client: Client) -> bool | None:
    with contextlib.suppress(Exception):
        client.register(f"user-{time.monotonic_ns()}", "a password")
        return True
    return None


# ── time ──


def test_nobody_is_killed_for_what_the_supervisor_slept_through(home: Deployment) -> None:
    # As it is after the machine was suspended: the boot clock has gone on, and nobody has done anything.
    assert home.process
    before = home.pids()
    restarts = {unit: home.unit(unit)["restarts"] for unit in before}
    warnings = log(home).count("gave no answer")
    os.kill(home.process.pid, signal.SIGSTOP)
    try:
        time.sleep(15)
    finally:
        os.kill(home.process.pid, signal.SIGCONT)
    home.wait_ready()
    # Longer than two questions after health.
    time.sleep(6)
    assert home.pids() == before
    assert {unit: home.unit(unit)["restarts"] for unit in before} == restarts
    assert log(home).count("gave no answer") == warnings


# ── descriptors ──


@contextlib.contextmanager
def limited(pid: int, descriptors: int) -> Iterator[None]:
    """As whom the process runs as, since not even root may limit somebody else's everywhere."""
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    before = next(int(line.split()[3]) for line in limits if line.startswith("Max open files"))
    who = Path(f"/proc/{pid}").stat()
    prefix = (
        ["setpriv", f"--reuid={who.st_uid}", f"--regid={who.st_gid}", "--clear-groups"] if who.st_uid else []
    )

    def limit(soft: int) -> None:
        subprocess.run([*prefix, "prlimit", f"--pid={pid}", f"--nofile={soft}:"], check=True)

    limit(descriptors)
    try:
        yield
    finally:
        limit(before)


def open_of(pid: int) -> set[int]:
    return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


def test_a_supervisor_without_descriptors_goes_on_and_says_so(home: Deployment) -> None:
    assert home.process
    pid = home.process.pid
    before = home.pids()
    victim = before["generic-1"]
    assert victim
    said = log(home).count("cannot be started")
    held: list[socket.socket] = []
    most = max(open_of(pid)) + 1

    def is_let_in() -> bool:
        """Whether one more connection to the control socket is; it stays."""
        connection = socket.socket(socket.AF_UNIX)
        held.append(connection)
        connection.settimeout(10)
        connection.connect(str(home.run / "control.sock"))
        connection.sendall(b"GET /v1/version HTTP/1.1\r\nHost: synvisor\r\n\r\n")
        try:
            return connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        except TimeoutError:
            return False

    def take_all() -> None:
        """Connections take what is left but the descriptor by which each is let in, one at a time."""
        # Some are open only for a moment.
        while any(len(open_of(pid)) < most for _ in range(20)):
            is_let_in()
        while not is_let_in():
            # Neither it nor the last one, which is where nobody may stay.
            held.pop().close()
            held.pop().close()
        held.pop().close()

    with limited(pid, most):
        try:
            take_all()
            with idle(home, "router"):
                os.kill(victim, signal.SIGKILL)
                found = of(home, "generic-1", "backoff", "Too many open files")
                assert "LimitNOFILE" in found["reason"]
                # Who cannot be asked is not taken for stuck: longer than two questions after health.
                time.sleep(16)
                now = home.pids()
                assert {name for name in now if now[name] != before[name]} == {"generic-1"}
            assert log(home).count("cannot be started") - said < 12
            assert log(home).count("cannot accept on the control socket") <= 1
            assert home.process.poll() is None
        finally:
            for connection in held:
                connection.close()
    home.wait_ready()
    assert home.cli("restart", "generic-1").returncode == 0


def test_a_router_without_descriptors_goes_on_with_whom_it_has(home: Deployment) -> None:
    router = home.pids()["router"]
    assert router
    request = b"GET /_matrix/client/versions HTTP/1.1\r\nHost: localhost\r\n\r\n"
    waiting: list[socket.socket] = []

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", home.port), timeout=60)

    def answer(client: socket.socket, ask: bool = True) -> bytes:
        if ask:
            client.sendall(request)
        answer = b""
        while not answer.endswith(b"0\r\n\r\n"):
            assert (piece := client.recv(65536)), answer
            answer += piece
        return answer.splitlines()[0]

    first = [connect() for _ in range(4)]
    for client in first:
        assert b" 200 " in answer(client)
    with limited(router, 60):
        with idle(home, "router"):
            for _ in range(60):
                waiting.append(connect())
                waiting[-1].sendall(request)
            wait_for(
                "a word on it",
                lambda: ("clients are connected, all that 60 descriptors" in log(home)) or None,
            )
            for _ in range(20):
                for client in first:
                    assert b" 200 " in answer(client)
        # Who leaves makes room for who waits.
        for client in [*first, *waiting[:20]]:
            client.close()
        for client in waiting[20:24]:
            assert b" 200 " in answer(client, ask=False)
    for client in waiting[24:]:
        assert b" 200 " in answer(client, ask=False)
        client.close()
    assert home.pids()["router"] == router
    assert log(home).count("clients are connected, all that 60 descriptors") == 1
