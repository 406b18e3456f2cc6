"""The way to the admin API that only root and synvisor's user have, and synvisor's own account there."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import ORDINARY, ROOT_USER, Deployment, deployed, wait_for
from tests.support.matrix import quote
from tests.support.people import (
    GUARDED,
    LONG,
    add,
    assert_logged_out,
    homeserver,
    is_logged_in,
    listed,
    log_in,
    refused,
    run,
)


@pytest.fixture(scope="module", name="home")
def fixture() -> Iterator[Deployment]:
    yield from homeserver()


def own_token(home: Deployment) -> Path:
    return home.state / "secrets" / "admin_access_token"


def test_a_token_that_is_refused_is_replaced_and_the_account_stays(home: Deployment) -> None:
    # Mutations, each seen red: a refused token not replaced; another account made instead of a login; old
    # sessions kept; two let in at a time.
    run(home, "user", "list")
    first = own_token(home).read_text()
    before = listed(home, "--all").keys()
    own_token(home).write_text("syt_this_is_none")
    run(home, "user", "list")
    second = own_token(home).read_text()
    assert second not in (first, "syt_this_is_none")
    # What was lost is worth nothing to whoever finds it.
    finder = home.client()
    finder.token = first
    assert_logged_out(finder)
    own_token(home).unlink()
    several = [
        subprocess.Popen(home.command("user", "list"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for one in several:
        _, said = one.communicate(timeout=300)
        assert one.returncode == 0, said
    kept = home.client()
    kept.token = own_token(home).read_text()
    assert is_logged_in(kept)
    assert own_token(home).stat().st_mode & 0o777 == 0o600
    assert own_token(home).owner() == (home.state / "secrets" / "signing.key").owner()
    assert listed(home, "--all").keys() == before


def test_an_account_that_is_lost_has_a_successor(home: Deployment) -> None:
    # Mutations, each seen red: only one name tried; rooms not left.
    add(home, "synvisor-admin-2")
    host = log_in(home, "synvisor-admin-2")
    lobby = host.create_room(preset="public_chat", room_alias_name="lobby")
    run(home, "user", "deactivate", "synvisor-admin", "--yes")
    # The second name is somebody's, who stays what it was.
    everybody = listed(home)
    assert not everybody["@synvisor-admin-2"]["admin"]
    assert is_logged_in(host)
    assert "@synvisor-admin-3" not in everybody
    assert listed(home, "--all")["@synvisor-admin-3"]["admin"]
    # Every new user comes to the lobby; this one does not stay.
    guest = log_in(home, add(home, "guest"))
    members = host.call("GET", f"/_matrix/client/v3/rooms/{quote(lobby)}/joined_members")["joined"]
    assert members.keys() == {host.user, guest.user}


def test_who_asks_while_main_restarts_waits(home: Deployment) -> None:
    ended = threading.Event()
    failed: list[str] = []

    def restart() -> None:
        for _ in range(3):
            done = home.cli("restart", "main")
            if done.returncode:
                failed.append(done.stderr)
        ended.set()

    before = home.unit("main")["incarnation"]
    restarting = threading.Thread(target=restart)
    restarting.start()
    made = 0
    while not ended.is_set():
        add(home, f"patient-{made}")
        assert f"@patient-{made}" in listed(home)
        made += 1
    restarting.join()
    assert not failed
    assert made
    assert home.unit("main")["incarnation"] == before + 3


def test_who_asks_waits_also_for_a_main_that_listens_by_itself() -> None:
    # Mutation: a connection that is refused not tried again: seen red.
    with deployed("", synapse=GUARDED, without=("bootstrap",)) as home:
        run(home, "user", "list")
        socket = home.run / "client" / "main.sock"
        with subprocess.Popen(home.command("restart", "main"), stdout=subprocess.DEVNULL) as restarting:
            wait_for("main to be away", lambda: True if not socket.exists() else None)
            run(home, "user", "list")
        assert restarting.returncode == 0


def test_who_asks_while_main_is_stopped_is_told_so(home: Deployment) -> None:
    run(home, "stop", "main")
    try:
        assert "synvisor start main" in refused(home, 1, "user", "list")
    finally:
        run(home, "start", "main")


def test_secrets_are_in_no_argument_log_or_output(home: Deployment) -> None:
    # Mutations, each seen red: the registration token printed by `list`; the password printed by `add`.
    password = "hunter 2 is seen by nobody"
    with subprocess.Popen(
        home.command("user", "add", "quiet", "--password-stdin"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as asking:
        # It waits for the password, and has its arguments.
        process = Path(f"/proc/{asking.pid}")
        wait_for("the command to begin", lambda: b"quiet" in (process / "cmdline").read_bytes() or None)
        shown = (process / "cmdline").read_text() + (process / "environ").read_text(errors="replace")
        said, _ = asking.communicate(password, timeout=300)
    assert asking.returncode == 0, said
    log_in(home, "quiet", password)
    run(home, "user", "password", "quiet", "--password-stdin", given=password + "!")
    # Synapse writes those that somebody registers with to its log (synapse/handlers/auth.py).
    unused = run(home, "register-token", "add", "--uses", "3").strip()
    secrets = [password, unused, own_token(home).read_text()]
    secrets.append((home.state / "secrets" / "registration_shared_secret").read_text().strip())
    seen = {path.name: path.read_text(errors="replace") for path in (home.state / "logs").glob("*.log")}
    seen["output"], seen["process"] = home.tail(10**8), shown
    seen["said"] = said + run(home, "user", "list", "--all", "--json")
    seen["said"] += run(home, "register-token", "list", "--json") + run(home, "status", "--json")
    found = [
        (name, line)
        for name, text in seen.items()
        for line in text.splitlines()
        if any(secret in line for secret in secrets)
    ]
    assert not found


@pytest.mark.skipif(not ROOT_USER, reason="only root can become another user")
def test_only_root_and_the_service_user_may(home: Deployment) -> None:
    # Mutation: what one may not read taken for any other failure: seen red.
    def as_user(uid: int, gid: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        become = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        command = [*become, *home.command(*arguments)]
        return subprocess.run(command, input=LONG, capture_output=True, text=True, timeout=300, check=False)

    for verb in [
        ["user", "list"],
        ["user", "add", "mallory", "--password-stdin"],
        ["user", "password", "alice", "--password-stdin"],
        ["user", "deactivate", "alice", "--yes"],
        ["register-token", "add"],
        ["register-token", "list"],
    ]:
        done = as_user(12345, 12345, *verb)
        assert (done.returncode, done.stdout) == (77, ""), done
        assert "sudo" in done.stderr
    assert ORDINARY
    own_token(home).unlink()
    done = as_user(*ORDINARY, "user", "list")
    assert done.returncode == 0, done
    # Whoever made it, both have it.
    run(home, "user", "list")
    assert "@mallory" not in listed(home)


def test_where_nothing_runs_that_is_said() -> None:
    # Mutation: the secret read before anybody is asked: seen red.
    home = Deployment("generic = 1")
    try:
        for verb in (["user", "list"], ["user", "add", "a", "--password-stdin"], ["register-token", "list"]):
            assert "not running" in refused(home, 69, *verb, given=LONG)
    finally:
        home.close()


def test_where_users_are_the_authentication_services_that_is_said() -> None:
    # Mutation: not looked at: seen red (69 for 1).
    service = '[synapse.matrix_authentication_service]\nenabled = true\nendpoint = "http://localhost:8080"\n'
    home = Deployment("generic = 1", synapse=service + 'secret = "a secret of theirs"\n')
    try:
        assert "mas-cli manage register-user" in refused(home, 1, "user", "add", "a", "--password-stdin")
        assert "mas-cli manage set-password" in refused(home, 1, "user", "password", "a", "--password-stdin")
        assert "mas-cli manage" in refused(home, 1, "register-token", "add")
    finally:
        home.close()
