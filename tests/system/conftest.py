"""The service in a machine, started for each test as the one before it may have left it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .machine import suites
from .service import UNIT, Service


@pytest.fixture(scope="session", params=suites())
def installed(request: pytest.FixtureRequest) -> Iterator[Service]:
    service = Service(request.param)
    try:
        yield service.install()
    finally:
        service.close()


@pytest.fixture
def service(installed: Service) -> Iterator[Service]:
    installed.systemctl("start", UNIT)
    installed.wait_ready()
    yield installed
    installed.reset()
    installed.write()
    if installed.state() == "active/running":
        installed.systemctl("reload", UNIT)
