"""READY and the connection to Redis."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from .supervisor import Supervisor, wait_for


@pytest.mark.parametrize("redis", [True, False])
def test_ready_is_said_when_there_is_a_connection(shared: Supervisor, tmp_path: Path, redis: bool) -> None:
    # Mutation: every word let through, and the connection that tells nobody: both seen red.
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    connected = tmp_path / "connected"
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    child = shared.fork("ready_app", str(connected), redis=redis, environment=environment).go()
    wait_for("the word", lambda: True if "has said it" in child.text() else None)
    notify.setblocking(False)
    assert notify.recv(4096) == b"X_STARTING=1"
    if redis:
        with pytest.raises(BlockingIOError):
            notify.recv(4096)
    else:
        assert notify.recv(4096) == b"READY=1"
    connected.touch()
    assert child.wait() == 0, child.text()
    assert "['connection', 'connection']" in child.text(), "Synapse learns of it as ever"
    if redis:
        assert notify.recv(4096) == b"READY=1"
    assert notify.recv(4096) == b"READY=1\nX_AGAIN=1"
    with pytest.raises(BlockingIOError):
        notify.recv(4096)
    notify.close()
