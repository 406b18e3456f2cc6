"""Orders, reload, logs, and a stop that leaves nothing."""

from __future__ import annotations

import getpass
import json
import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import (
    ORDINARY,
    ROOT_USER,
    UNPRIVILEGED,
    Deployment,
    deployed,
    over_unix_socket,
    wait_for,
)


@pytest.fixture(scope="module")
def small() -> Iterator[Deployment]:
    """Main and two workers."""
    with deployed("generic = 1\ntyping = 1") as deployment:
        yield deployment


def run(deployment: Deployment, *arguments: str) -> str:
    done = deployment.cli(*arguments)
    assert done.returncode == 0, done
    return done.stdout


def test_status_is_a_table_and_json(small: Deployment) -> None:
    table = run(small, "status")
    status = small.status()
    assert status
    assert status["state"] == "ready"
    assert [unit["name"] for unit in status["units"]] == [
        "postgres",
        "redis",
        "forkserver",
        "main",
        "generic-1",
        "typing-1",
        "router",
    ]
    for unit in status["units"]:
        line = next(line for line in table.splitlines() if line.startswith(unit["name"] + " "))
        assert f" {unit['state']} " in line
        assert f" {unit['pid']} " in line
    # One user for everything is worth saying.
    assert "separation" in table


def test_stop_start_and_restart_of_one_unit(small: Deployment) -> None:
    before = small.pids()
    run(small, "stop", "generic-1")
    assert small.unit("generic-1")["state"] == "down"
    # What is not strict falls over to another process meanwhile.
    assert "versions" in small.client().call("GET", "/_matrix/client/versions")
    run(small, "start", "generic-1")
    assert small.unit("generic-1")["state"] == "ready"
    run(small, "restart", "typing-1")
    after = small.pids()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"generic-1", "typing-1"}


def test_an_order_that_makes_no_sense_says_what_would(small: Deployment) -> None:
    unknown = small.cli("restart", "genric-1")
    assert unknown.returncode == 1
    assert "genric-1" in unknown.stderr
    assert "generic-1" in unknown.stderr
    assert small.cli("restart").returncode == 64


def test_restart_all_restarts_synapse_and_nothing_else(small: Deployment) -> None:
    before = small.pids()
    run(small, "restart", "--all")
    after = small.pids()
    assert {name for name in before if before[name] != after[name]} == {"main", "generic-1", "typing-1"}
    assert "versions" in small.client().call("GET", "/_matrix/client/versions")


def test_reload_starts_and_stops_what_the_counts_ask_for(small: Deployment) -> None:
    # Mutation: Desire answered by restarting every unit: seen red (pids differ).
    before = small.pids()
    assert "no change" in run(small, "reload")
    small.workers = "generic = 2\ntyping = 1"
    small.write()
    assert "generic-2" in run(small, "reload")
    small.wait_ready()
    grown = small.pids()
    assert set(grown) - set(before) == {"generic-2"}
    assert {name: grown[name] for name in before} == before
    small.workers = "generic = 1\ntyping = 1"
    small.write()
    run(small, "reload")
    wait_for("generic-2 gone", lambda: True if small.pids() == before else None)
    assert not list(small.state.glob("config/generic-2*"))


def test_a_plan_says_what_a_changed_file_asks_for_and_changes_nothing(small: Deployment) -> None:
    # Mutations, each seen red: `running` left by reload as it was; the note of status left out.
    def plan(*arguments: str) -> tuple[int, str]:
        done = small.cli("plan", *arguments)
        return done.returncode, done.stdout + done.stderr

    def note() -> str:
        status = small.status()
        assert status
        return "\n".join(note for note in status["notes"] if "synvisor.toml" in note)

    before, good, text = small.pids(), small.workers, small.toml.read_text()
    assert plan() == (0, "no change\n")
    small.toml.write_text("# only a comment\n" + text)
    assert plan() == (0, "no change\n")
    assert note() == ""
    secret = "hunter2-hunter2"
    small.toml.write_text(text.replace("[synapse]", f'[synapse]\nturn_shared_secret = "{secret}"', 1))
    code, said = plan()
    assert code == 3
    for word in ("turn_shared_secret", "main, generic-1, typing-1"):
        assert word in said
    assert secret not in said + plan("--json")[1] + note()
    assert "differs from what runs" in note()
    small.workers = "generic = 2\ntyping = 1"
    small.write()
    code, said = plan("--json")
    (step,) = json.loads(said)["steps"]
    assert (code, step["kind"], list(step["moves"])) == (3, "start", ["generic-2"])
    small.toml.write_text(text.replace("generic =", "genric ="))
    assert plan()[0] == 78
    assert "mistakes" in note()
    small.workers = "generic = 2\ntyping = 1"
    small.write()
    run(small, "reload")
    small.wait_ready()
    assert plan() == (0, "no change\n")
    small.workers = good
    small.write()
    run(small, "reload")
    wait_for("generic-2 gone", lambda: True if small.pids() == before else None)
    assert (plan(), note()) == ((0, "no change\n"), "")


def test_a_reload_of_what_is_read_anew_restarts_nobody(small: Deployment) -> None:
    # Mutations, each seen red: the signal not sent; the files not written.
    before, log = small.pids(), small.state / "logs" / "typing-1.log"
    size = log.stat().st_size
    small.extra = '[units.typing-1]\nlog_level = "DEBUG"'
    small.write()
    assert "read their files anew: typing-1" in run(small, "reload")
    wait_for("a line of DEBUG", lambda: True if " DEBUG " in log.read_text()[size:] else None)
    assert " DEBUG " not in (small.state / "logs" / "generic-1.log").read_text()
    small.extra = ""
    small.top = 'trusted_proxies = ["10.0.0.0/8"]'
    small.write()
    assert "read their files anew: typing-1" in run(small, "reload")
    small.top = ""
    small.write()
    assert "the router was told" in run(small, "reload")
    assert run(small, "plan") == "no change\n"
    assert small.pids() == before


def test_a_reload_with_mistakes_changes_nothing(small: Deployment) -> None:
    before = small.pids()
    files = {path: path.read_bytes() for path in (small.state / "config").iterdir()}
    good = small.workers
    small.workers = "genric = 1"
    small.write()
    done = small.cli("reload")
    assert done.returncode == 78
    assert 'did you mean "generic"?' in done.stderr
    assert {path: path.read_bytes() for path in (small.state / "config").iterdir()} == files
    small.workers = good
    small.write()
    assert small.pids() == before


def test_logs_are_printed_and_followed(small: Deployment) -> None:
    assert len(run(small, "logs", "-n", "3", "main").splitlines()) == 3
    assert small.cli("logs", "nobody").returncode == 1
    command = small.command("logs", "--follow", "-n", "0", "generic-1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout
        run(small, "restart", "generic-1")
        line = follower.stdout.readline()
        follower.terminate()
    # What comes first depends on who is faster.
    assert re.match(r"\d{4}-\d\d-\d\d [\d:,]+ [A-Z]+ (synapse|twisted)", line), line


def test_foreground_output_names_the_unit(small: Deployment) -> None:
    assert any(line.startswith("main ") and " | " in line for line in small.tail(100_000).splitlines())


def test_route_needs_no_daemon_and_says_why(small: Deployment) -> None:
    text = run(small, "route", "PUT", "/_matrix/client/v3/rooms/!r/typing/@u:x")
    assert "typing-1" in text
    assert "only a writer of the typing stream" in text
    assert "generic-1" in run(small, "route", "GET", "/_matrix/client/v3/sync?since=1")


def test_the_control_socket_speaks_http(small: Deployment) -> None:
    socket = small.run / "control.sock"
    status, body = over_unix_socket(socket, "GET", "/v1/status")
    assert (status, json.loads(body)["state"]) == (200, "ready")
    assert over_unix_socket(socket, "POST", "/v1/restart", {"units": ["typing-1"]})[0] == 200
    assert over_unix_socket(socket, "POST", "/v1/restart", {"unit": "typing-1"})[0] == 400
    assert over_unix_socket(socket, "GET", "/v1/nothing")[0] == 404
    assert small.cli("version").stdout.startswith("synvisor ")


@pytest.mark.skipif(not ROOT_USER, reason="only root can try to be somebody else")
def test_strangers_do_not_steer(small: Deployment) -> None:
    # A user who is neither root nor synvisor's own; the socket is opened to all to test the second lock.
    socket = small.run / "control.sock"
    socket.chmod(0o666)
    try:
        script = "import sys; sys.path.insert(0, sys.argv[1]); from tests.support.deployment import *; "
        script += "print(over_unix_socket(Path(sys.argv[2]), 'GET', '/v1/status')[0])"
        root = str(Path(__file__).resolve().parents[2])
        command = [
            "setpriv",
            "--reuid=12345",
            "--regid=12345",
            "--clear-groups",
            str(small.venv / "bin/python"),
        ]
        done = subprocess.run(
            [*command, "-c", script, root, str(socket)], capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() == "403", done
    finally:
        socket.chmod(0o600)


def test_secrets_are_for_nobody_else(small: Deployment) -> None:
    for path in (small.state / "secrets").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
    for path in (small.state / "config").glob("*.yaml"):
        assert path.stat().st_mode & 0o077 == 0, path
    # Neither in arguments nor in the log.
    secrets = [path.read_text(encoding="utf-8").split()[-1] for path in (small.state / "secrets").iterdir()]
    log = small.tail(10_000_000) + "".join(
        path.read_text() for path in (small.state / "logs").glob("main.log")
    )
    status = run(small, "status", "--json")
    arguments = "".join(
        Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text(errors="replace")
        for pid in small.pids().values()
    )
    assert not [secret for secret in secrets if secret in log + status + arguments]


def test_an_ordinary_user_can_run_it_and_a_stop_leaves_nothing() -> None:
    with deployed("generic = 1", run_as=ORDINARY) as deployment:
        assert deployment.process
        status = deployment.status()
        assert status
        name = UNPRIVILEGED if ROOT_USER else getpass.getuser()
        assert any(name in note for note in status["notes"])
        assert "versions" in deployment.client().call("GET", "/_matrix/client/versions")
        # `deployed` checks at its end that no process and no socket is left.


def test_units_have_what_is_said_of_them_and_the_old_identity_is_kept() -> None:
    # Mutations, each seen red: `nice` left out of src/sys/fork.rs; `environment` left out of
    # src/run/spawn.rs; `outgrown` always empty (src/run/memory.rs); the user's signing key not rendered
    # (src/render/shared.rs).
    home = Deployment("generic = 2")
    try:
        key = home.directory / "signing.key"
        key.write_text("ed25519 a_old H7g1x3mSSlyFPgRlzOrQfsDQcpTBUmoWFMEyKEJcoB4\n")
        key.chmod(0o600)
        shared = home.directory / "registration"
        shared.write_text("the old registration secret\n")
        shared.chmod(0o600)
        home.extra = f"""
[secrets]
signing_key_file = "{key}"
signing_key_required = true
registration_shared_secret_file = "{shared}"
[units.workers]
environment = {{ SYNVISOR_TEST = "a b", PYTHONPATH = "{home.directory}" }}
settings = {{ modules = [{{ module = "witness.Witness", config = {{}} }}] }}
[units.generic-1]
nice = 7
max_memory = "10M"
"""
        # A module of Synapse's that the workers find by one variable, and that tells another one's value.
        (home.directory / "witness.py").write_text(
            "import os\n\n\nclass Witness:\n    def __init__(self, config, api):\n"
            "        print('witnessed', os.environ['SYNVISOR_TEST'], flush=True)\n"
        )
        home.write()
        home.start().wait_ready()
        before = home.pids()

        def of(unit: str) -> tuple[int, bool]:
            pid = before[unit]
            assert pid
            log = (home.state / "logs" / f"{unit}.log").read_text()
            return os.getpriority(os.PRIO_PROCESS, pid), "witnessed a b" in log

        assert [of("main"), of("generic-1"), of("generic-2")] == [(0, False), (7, True), (0, True)]
        keys = home.client().call("GET", "/_matrix/key/v2/server")
        assert list(keys["verify_keys"]) == ["ed25519:a_old"]
        assert not (home.state / "secrets" / "signing.key").exists()

        def recycled() -> bool | None:
            unit = home.unit("generic-1")
            return (unit["state"] == "ready" and unit["pid"] != before["generic-1"]) or None

        wait_for("generic-1 restarted for its memory", recycled)
        assert "generic-1 has grown to" in home.tail(10**7)
        # It was ordered, and so neither a crash nor an end that nobody wanted.
        assert home.unit("generic-1")["restarts"] == 0
        assert "generic-1 ended unasked" not in home.tail(10**7)
        assert home.unit("generic-2")["pid"] == before["generic-2"]
    finally:
        home.close()


@pytest.mark.skipif(not ROOT_USER, reason="only root can give the router a user of its own")
def test_the_router_cannot_reach_what_is_not_for_it() -> None:
    # Mutations, each seen red: the router started as Synapse's user, the client directory without its group.
    with deployed("generic = 1", router_user="daemon") as home:
        assert "versions" in home.client().call("GET", "/_matrix/client/versions")
        status = home.status()
        assert status
        assert not status["notes"]
        uid, gid = pwd.getpwnam("daemon")[2:4]
        assert Path(f"/proc/{home.unit('router')['pid']}").stat().st_uid == uid
        assert Path(f"/proc/{home.unit('main')['pid']}").stat().st_uid == pwd.getpwnam(UNPRIVILEGED).pw_uid

        def may(command: str, path: Path) -> bool:
            drop = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
            return subprocess.run([*drop, "test", command, str(path)], check=False).returncode == 0

        assert may("-w", home.run / "client" / "main.sock")
        closed = [home.state / "secrets" / "signing.key", home.state / "config" / "main.yaml"]
        closed += [
            home.run / name for name in ("private/main.sock", "redis/redis.sock", "postgres/.s.PGSQL.5432")
        ]
        closed += [home.state / "logs" / "main.log", home.state / "media_store"]
        for path in closed:
            assert path.exists()
            assert not may("-r", path), path
        for name in ("control.sock", "notify.sock", "router-1.sock"):
            assert not may("-w", home.run / name), name
