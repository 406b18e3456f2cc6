"""Users and registration tokens from the command line, by the way that only root and synvisor's user have."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deployment import LIVELY, ORDINARY, ROOT_USER, Deployment, deployed, wait_for
from tests.support.matrix import Client, MatrixError, quote

# Hashing a password is made to take long, and here nobody guesses.
CHEAP = "bcrypt_rounds = 4\n" + LIVELY.replace(
    "enable_registration_without_verification = true\n", "registration_requires_token = true\n"
)
POLICY = """
[synapse.user_directory]
search_all_users = true
[synapse.password_config.policy]
enabled = true
minimum_length = 8
require_digit = true
"""
LONG = "correct horse 1"
# A room that is made only by the test of it.
LOBBY = 'auto_join_rooms = ["#lobby:users.example"]\nautocreate_auto_join_rooms = false\n'
# Each page of Synapse's list has a hundred.
MANY = 101


@pytest.fixture(scope="module")
def home() -> Iterator[Deployment]:
    settings = LOBBY + CHEAP + POLICY
    with deployed("generic = 1", synapse=settings, server_name="users.example", admin=True) as deployment:
        yield deployment


def cli(home: Deployment, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        home.command(*arguments), input=given or "", capture_output=True, text=True, timeout=300, check=False
    )


def run(home: Deployment, *arguments: str, given: str | None = None) -> str:
    done = cli(home, *arguments, given=given)
    assert done.returncode == 0, done
    return done.stdout


def refused(home: Deployment, code: int, *arguments: str, given: str | None = None) -> str:
    """What is said to somebody who is refused: what happened, and on a line of its own what to do."""
    done = cli(home, *arguments, given=given)
    assert done.returncode == code, done
    assert "\n  " in done.stderr, done
    assert not done.stdout, done
    return done.stderr


def add(home: Deployment, name: str, *flags: str) -> str:
    run(home, "user", "add", name, "--password-stdin", *flags, given=LONG + "\n")
    return name


def listed(home: Deployment, *flags: str) -> dict[str, dict[str, Any]]:
    users = json.loads(run(home, "user", "list", "--json", *flags))
    return {user["name"].partition(":")[0]: user for user in users}


def log_in(home: Deployment, name: str, password: str = LONG) -> Client:
    return home.client().login(name, password)


def is_logged_in(client: Client) -> bool:
    try:
        client.call("GET", "/_matrix/client/v3/account/whoami")
    except MatrixError as error:
        assert error.status == 401, error
        return False
    return True


def test_a_user_is_added_and_logs_in(home: Deployment) -> None:
    said = run(home, "user", "add", "alice", "--password-stdin", "--display-name", "Alice", given=LONG)
    assert said == f"@alice:{home.server_name} was added\n"
    alice = log_in(home, "alice")
    profile = alice.call("GET", f"/_matrix/client/v3/profile/{quote(alice.user)}")
    assert profile["displayname"] == "Alice"
    # Nobody else was logged in for it.
    devices = alice.call("GET", "/_matrix/client/v3/devices")["devices"]
    assert [device["device_id"] for device in devices] == [alice.device]
    assert not listed(home)["@alice"]["admin"]
    again = refused(home, 1, "user", "add", f"@alice:{home.server_name}", "--password-stdin", given=LONG)
    assert "there is or was a user @alice" in again
    assert is_logged_in(alice)


def test_an_administrator_is_added(home: Deployment) -> None:
    # Mutation: `admin` not asked for: seen red.
    add(home, "root", "--admin")
    add(home, "nobody")
    admins = listed(home, "--admins")
    assert "@root" in admins
    assert "@nobody" not in admins
    head, *table = run(home, "user", "list", "--admins").splitlines()
    assert re.split(" {2,}", head) == ["USER", "ROLE", "STATE", "SINCE", "SHOWN AS"]
    name, role, state, _, shown = re.split(" {2,}", next(row for row in table if row.startswith("@root:")))
    assert (name, role, state, shown) == (f"@root:{home.server_name}", "admin", "active", "root")


def test_a_password_that_is_none_or_too_weak_changes_nothing(home: Deployment) -> None:
    # Mutation: the policy not asked for: seen red.
    for password, said in [("", "something in it"), ("short 1", "8 signs"), ("no digit here", "a digit")]:
        why = refused(home, 1, "user", "add", "weak", "--password-stdin", given=password)
        assert said in why
    assert "more than one line" in refused(
        home, 64, "user", "add", "weak", "--password-stdin", given="two\nlines 1\n"
    )
    assert "no terminal" in refused_without_terminal(home, "user", "add", "weak")
    assert "@weak" not in listed(home)


def refused_without_terminal(home: Deployment, *arguments: str) -> str:
    done = subprocess.run(
        home.command(*arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 64, done
    return done.stderr


def typed(home: Deployment, answers: list[tuple[str, str]], *arguments: str) -> tuple[int, str]:
    """The exit code of a command, and what it says to somebody who types these answers on a terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(home.command()[0], home.command(*arguments))
    seen = ""

    def read() -> bool:
        nonlocal seen
        try:
            piece = os.read(terminal, 4096).decode()
        except OSError:
            return False
        seen += piece
        return bool(piece)

    for question, answer in answers:
        before = len(seen)
        while question not in seen[before:] and read():
            pass
        # A terminal may still be about to hide what is typed.
        time.sleep(0.5)
        os.write(terminal, answer.encode() + b"\n")
    while read():
        pass
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), seen


def test_a_password_is_typed_twice_and_seen_by_nobody(home: Deployment) -> None:
    # Mutation: the second one not compared: seen red.
    code, seen = typed(home, [("New password: ", LONG), ("Once more: ", LONG)], "user", "add", "typist")
    assert code == 0, seen
    assert LONG not in seen
    log_in(home, "typist")
    code, seen = typed(home, [("New password: ", LONG), ("Once more: ", "other 12")], "user", "add", "clumsy")
    assert (code, "not the same" in seen) == (1, True), seen
    assert "@clumsy" not in listed(home)


def test_a_new_password_ends_sessions_unless_they_are_kept(home: Deployment) -> None:
    # Mutation: `logout_devices` the other way round: seen red.
    add(home, "carol")
    kept = log_in(home, "carol")
    said = run(
        home, "user", "password", "carol", "--keep-sessions", "--password-stdin", given="another one 2"
    )
    assert "goes on" in said
    assert is_logged_in(kept)
    with pytest.raises(MatrixError):
        log_in(home, "carol")
    other = log_in(home, "carol", "another one 2")
    run(home, "user", "password", "carol", "--password-stdin", given=LONG)
    assert not is_logged_in(kept)
    assert not is_logged_in(other)
    log_in(home, "carol")
    assert "no user @ghost" in refused(home, 1, "user", "password", "ghost", "--password-stdin", given=LONG)


def test_who_is_deactivated_does_not_come_back(home: Deployment) -> None:
    # Mutation: the question not asked: seen red.
    add(home, "dora")
    dora = log_in(home, "dora")
    assert "--yes" in refused(home, 64, "user", "deactivate", "dora")
    code, seen = typed(home, [("[y/N]", "n")], "user", "deactivate", "dora")
    assert (code, "nothing was changed" in seen) == (1, True), seen
    assert is_logged_in(dora)
    code, seen = typed(home, [("[y/N]", "y")], "user", "deactivate", "dora")
    assert (code, "is deactivated" in seen) == (0, True), seen
    assert not is_logged_in(dora)
    with pytest.raises(MatrixError):
        log_in(home, "dora")
    add(home, "ella")
    run(home, "user", "deactivate", "ella", "--erase", "--yes")
    assert not {"@dora", "@ella"} & listed(home).keys()
    gone = listed(home, "--deactivated")
    assert [gone[name]["erased"] for name in ("@dora", "@ella")] == [False, True]
    assert "@alice" not in gone
    assert "no user" in refused(home, 1, "user", "deactivate", "ghost", "--yes")


def test_names_of_other_servers_are_refused(home: Deployment) -> None:
    why = refused(home, 64, "user", "deactivate", "@alice:elsewhere.example", "--yes")
    assert "elsewhere.example" in why
    assert home.server_name in why
    refused(home, 64, "user", "add", "", "--password-stdin", given=LONG)
    assert "small letters" in refused(home, 1, "user", "add", "n\u00e4me", "--password-stdin", given=LONG)


def test_everybody_is_listed_and_our_own_account_only_when_asked_for(home: Deployment) -> None:
    # Mutations, each seen red: only the first page read; our own account shown; its kind left out.
    admin = home.administrator()
    for number in range(MANY):
        path = f"/_synapse/admin/v2/users/{quote(f'@crowd-{number:03}:{home.server_name}')}"
        admin.call("PUT", path, {"password": LONG})
    users = listed(home)
    assert len([name for name in users if name.startswith("@crowd-")]) == MANY
    assert not [name for name in users if name.startswith("@synvisor")]
    assert listed(home, "--all")["@synvisor-admin"]["admin"]
    # Who looks for people does not find it.
    somebody = log_in(home, "crowd-000")

    def found(term: str) -> list[str] | None:
        body = {"search_term": term, "limit": 10}
        answer = somebody.call("POST", "/_matrix/client/v3/user_directory/search", body)
        return [user["user_id"] for user in answer["results"]] or None

    assert wait_for("people to be found", lambda: found("crowd-001"))
    assert not found("synvisor-admin")


def register(home: Deployment, name: str, token: str) -> Client:
    client = home.client()
    path = "/_matrix/client/v3/register"
    body: dict[str, Any] = {"username": name, "password": LONG}
    with pytest.raises(MatrixError) as asked:
        client.call("POST", path, body)
    session = asked.value.body["session"]
    body["auth"] = {"type": "m.login.registration_token", "token": token, "session": session}
    try:
        answer = client.call("POST", path, body)
    except MatrixError as error:
        # The token is good, and Synapse wants to hear that there is no more to ask.
        if "m.login.registration_token" not in error.body.get("completed", []):
            raise
        body["auth"] = {"type": "m.login.dummy", "session": session}
        answer = client.call("POST", path, body)
    return client._logged_in(answer)


def tokens(home: Deployment, *flags: str) -> dict[str, dict[str, Any]]:
    found = json.loads(run(home, "register-token", "list", "--json", *flags))
    return {token["name"]: token for token in found}


def test_a_registration_token_lets_in_as_many_as_it_says(home: Deployment) -> None:
    # Mutation: `uses_allowed` left out: seen red.
    token = run(home, "register-token", "add", "--uses", "1", "--expires", "7d").strip()
    (name,) = [name for name, held in tokens(home, "--show-tokens").items() if held["token"] == token]
    week = tokens(home)[name]["expiry_time"] / 1000 - time.time()
    assert 6.9 * 86_400 < week <= 7 * 86_400
    register(home, "invited", token)
    with pytest.raises(MatrixError):
        register(home, "uninvited", token)
    table = run(home, "register-token", "list")
    assert token not in table
    assert next(row for row in table.splitlines() if row.startswith(name)).split()[1:4] == ["1", "1", "0"]


def test_a_registration_token_of_ones_own_comes_from_a_file_and_goes_by_its_name(home: Deployment) -> None:
    # Mutation: whether it is there already not looked at: seen red, by the log of main.
    file = home.directory / "token"
    file.write_text("our.own-token\n")
    said = run(home, "register-token", "add", "--token-file", str(file))
    register(home, "friend", "our.own-token")
    assert "already" in refused(home, 1, "register-token", "add", "--token-file", str(file))
    refused(home, 64, "register-token", "add", "--token-file", "-", given="not a token\n")
    assert "our.own-token" not in said + (home.state / "logs" / "main.log").read_text()
    name = said.split()[2]
    assert name in tokens(home)
    run(home, "register-token", "delete", name)
    assert name not in tokens(home)
    with pytest.raises(MatrixError):
        register(home, "stranger", "our.own-token")
    assert "no registration token" in refused(home, 1, "register-token", "delete", name)
    run(home, "register-token", "add", "--token-file", "-", given="of.standard-input\n")
    run(home, "register-token", "delete", "--token-file", "-", given="of.standard-input\n")
    wrong = cli(home, "register-token", "add", "--expires", "7")
    assert (wrong.returncode, "7d" in wrong.stderr) == (64, True), wrong


def own_token(home: Deployment) -> Path:
    return home.state / "secrets" / "admin_access_token"


def test_a_token_that_is_refused_is_replaced_and_the_account_stays(home: Deployment) -> None:
    # TODO mutations
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
    assert not is_logged_in(finder)
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
    # Mutation: what one may not read taken for what is not there: seen red.
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
