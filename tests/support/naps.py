"""A process that does not get to run while another one restarts, as on a machine that is too busy.

When it goes on it finds a request and a connection that was closed under its hands; the request was there
first, and may go out on that connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from urllib.parse import quote

from .deployment import Deployment, UnixConnection
from .matrix import Client

# Before anything else a request to say that one is typing calls the writer of presence (1.163:
# `synapse/rest/client/room.py`, RoomTypingRestServlet).
CALLER, CALLED = "typing-1", "presence-1"
NAPS = 5


@contextlib.contextmanager
def asleep(home: Deployment, unit: str) -> Iterator[None]:
    pid = home.pids()[unit]
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Caller:
    """A user who says to the caller itself that she is typing: what was written waits in its socket."""

    def __init__(self, home: Deployment, user: Client, room: str) -> None:
        self.target = f"/_matrix/client/v3/rooms/{quote(room)}/typing/{quote(str(user.user))}"
        self.headers = {"Authorization": f"Bearer {user.token}", "X-Forwarded-For": "127.0.0.1"}
        self.connection = UnixConnection(home.run / "client" / f"{CALLER}.sock", timeout=60)

    def ask(self) -> None:
        body = json.dumps({"typing": True, "timeout": 30_000})
        self.connection.request("PUT", self.target, body, self.headers)

    def answer(self) -> int:
        response = self.connection.getresponse()
        response.read()
        return response.status
