"""The verbs about users, as the tests say them, and whether somebody gets in."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

from .deployment import LIVELY, Deployment, deployed, wait_for
from .matrix import Client, MatrixError

# Nobody comes in without a token.
GUARDED = LIVELY.replace(
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


def homeserver() -> Iterator[Deployment]:
    settings = LOBBY + GUARDED + POLICY
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


def assert_logged_out(client: Client) -> None:
    """Another process may know a session from before for a moment, until replication tells it."""
    wait_for("the session to end", lambda: True if not is_logged_in(client) else None, 30)


def assert_no_login(home: Deployment, name: str) -> None:
    def refused() -> bool | None:
        try:
            log_in(home, name)
        except MatrixError as error:
            assert error.status == 403, error
            return True
        return None

    wait_for("the login to be refused", refused, 30)
