"""What the tests of the fork server share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from .supervisor import BOOTSTRAP, Supervisor, supervised

sys.path.append(str(BOOTSTRAP))


@pytest.fixture(scope="module")
def shared() -> Iterator[Supervisor]:
    """A server for all tests of a module; importing Synapse takes its time."""
    with supervised() as supervisor:
        assert supervisor.hello["problems"] == [], supervisor.server_log()
        yield supervisor
