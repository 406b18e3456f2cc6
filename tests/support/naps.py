"""A process that does not get to run while another one restarts, as on a machine that is too busy.

When it goes on it finds requests and closed connections at once, and a request may go out on a closed one.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from .deployment import Deployment

# Before anything else a request to say that one is typing calls the writer of presence (1.163:
# `synapse/rest/client/room.py`, RoomTypingRestServlet).
CALLER, CALLED = "typing-1", "presence-1"
# Nearly nothing but typing, so that some is asked for in every nap.
TYPING = ("--weight", "typing=60")
NAPS = 10


@contextlib.contextmanager
def asleep(home: Deployment, unit: str) -> Iterator[None]:
    pid = home.pids()[unit]
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
