"""The service in a machine, started for each test as the one before it may have left it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .machine import suites
from .service import UNIT, Service

# Machines share the network of the host, and these want the usual port of PostgreSQL.
USUAL_PORTS = ("test_package", "test_readme")


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """What one machine is made for stays in one process, where two run the tests."""
    for item in items:
        module = item.path.stem
        wanted = item.callspec.params if hasattr(item, "callspec") else {}
        if module in USUAL_PORTS:
            name = "usual ports"
        elif "installed" in item.fixturenames:
            name = wanted["installed"]
        else:
            name = f"{module} {wanted.get('root', '')}"
        item.add_marker(pytest.mark.xdist_group(name))


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
