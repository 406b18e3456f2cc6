"""What the tests of the fork server share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from .supervisor import BOOTSTRAP, Supervisor, become_subreaper, supervised

sys.path.append(str(BOOTSTRAP))


@pytest.fixture(scope="package", autouse=True)
def subreaper() -> Iterator[None]:
    """For these tests only: those of other folders would find the dead of their own unburied."""
    become_subreaper()
    yield
    become_subreaper(on=False)


@pytest.fixture(scope="module")
def shared() -> Iterator[Supervisor]:
    """A server for all tests of a module; importing Synapse takes its time."""
    with supervised() as supervisor:
        assert supervisor.hello["problems"] == [], supervisor.server_log()
        yield supervisor
