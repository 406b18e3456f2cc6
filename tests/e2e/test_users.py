"""Users and registration tokens from the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.deployment import Deployment, wait_for
from tests.support.matrix import Client, MatrixError, quote
from tests.support.people import (
    LONG,
    add,
    assert_logged_out,
    assert_no_login,
    cli,
    homeserver,
    is_logged_in,
    listed,
    log_in,
    refused,
    run,
)

# Each page of Synapse's list has a hundred.
MANY = 101


# Whoever has a session of its own would be taken for an orphan; this one waits for it.
WITHOUT_TERMINAL = """
import subprocess, sys
sys.exit(subprocess.run(sys.argv[1:], start_new_session=True).returncode)
"""


@pytest.fixture(scope="module", name="home")
def fixture() -> Iterator[Deployment]:
    yield from homeserver()


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
        [sys.executable, "-c", WITHOUT_TERMINAL, *home.command(*arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 64, done
    return done.stderr


# The same where there is one.
ON_A_TERMINAL = """
import os, pty, sys, termios

def shown(terminal):
    global hidden
    hidden = lambda: not termios.tcgetattr(terminal)[3] & termios.ECHO
    return os.read(terminal, 4096)

def typed(fd):
    text = os.read(fd, 4096)
    while sys.argv[1] == "unseen" and not hidden():
        pass
    return text

sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[2:], shown, typed)))
"""


def typed(home: Deployment, how: str, answers: list[tuple[str, str]], *arguments: str) -> tuple[int, str]:
    """The exit code of a command, and what it says to somebody who types these answers on a terminal.

    `how` is "unseen" when it hides what is typed: it is typed when it does.
    """
    seen = ""
    with subprocess.Popen(
        [sys.executable, "-c", ON_A_TERMINAL, how, *home.command(*arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin
        assert process.stdout

        def read() -> bool:
            nonlocal seen
            assert process.stdout
            piece = os.read(process.stdout.fileno(), 4096).decode()
            seen += piece
            return bool(piece)

        for question, answer in answers:
            before = len(seen)
            while question not in seen[before:] and read():
                pass
            os.write(process.stdin.fileno(), answer.encode() + b"\n")
        while read():
            pass
    return process.returncode, seen


def test_a_password_is_typed_twice_and_seen_by_nobody(home: Deployment) -> None:
    # Mutation: the second one not compared: seen red.
    code, seen = typed(
        home, "unseen", [("New password: ", LONG), ("Once more: ", LONG)], "user", "add", "typist"
    )
    assert code == 0, seen
    assert LONG not in seen
    log_in(home, "typist")
    different = [("New password: ", LONG), ("Once more: ", "other 12")]
    code, seen = typed(home, "unseen", different, "user", "add", "clumsy")
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
    assert_no_login(home, "carol")
    other = log_in(home, "carol", "another one 2")
    run(home, "user", "password", "carol", "--password-stdin", given=LONG)
    assert_logged_out(kept)
    assert_logged_out(other)
    log_in(home, "carol")
    assert "no user @ghost" in refused(home, 1, "user", "password", "ghost", "--password-stdin", given=LONG)


def test_who_is_deactivated_does_not_come_back(home: Deployment) -> None:
    # Mutations, each seen red: the question not asked; a new password given all the same.
    add(home, "dora")
    dora = log_in(home, "dora")
    assert "--yes" in refused(home, 64, "user", "deactivate", "dora")
    code, seen = typed(home, "seen", [("[y/N]", "n")], "user", "deactivate", "dora")
    assert (code, "nothing was changed" in seen) == (1, True), seen
    assert is_logged_in(dora)
    code, seen = typed(home, "seen", [("[y/N]", "y")], "user", "deactivate", "dora")
    assert (code, "is deactivated" in seen) == (0, True), seen
    assert_logged_out(dora)
    assert_no_login(home, "dora")
    # Synapse would take it, and let nobody in.
    why = refused(home, 1, "user", "password", "dora", "--password-stdin", given=LONG)
    assert "@dora" in why and "was deactivated" in why, why
    assert_no_login(home, "dora")
    again = refused(home, 1, "user", "add", "dora", "--password-stdin", given=LONG)
    assert "unless it was deactivated" in again, again
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
