"""A homeserver with a process of each kind, and a small one to federate with, for many tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.deployment import LIVELY, Deployment, free_port
from tests.support.endpoints import Recorder, TlsFront, appservice_registration
from tests.support.matrix import Client
from tests.support.orphans import adopting


@dataclass
class World:
    """A homeserver, another one, and what else the first talks to."""

    home: Deployment
    remote: Deployment
    gateway: Recorder
    appservice: Recorder

    def user(self, deployment: Deployment | None = None, name: str = "user") -> Client:
        return (deployment or self.home).client().register(f"{name}-{uuid.uuid4().hex[:8]}", "a password")


@pytest.fixture(scope="session", autouse=True)
def orphans() -> Iterator[None]:
    """What a supervisor that was killed leaves becomes ours, as it would become init's."""
    with adopting():
        yield


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    gateway, appservice = Recorder(), Recorder()
    ports = [free_port(), free_port()]
    home = Deployment('preset = "one-of-each"', server_name=f"localhost:{ports[0]}", admin=True)
    remote = Deployment(
        server_name=f"localhost:{ports[1]}", services='[database]\nmode = "embedded"\n', synapse=LIVELY
    )
    registration = appservice_registration(appservice.url, home.directory / "probe.yaml")
    home.synapse = f'app_service_config_files = ["{registration}"]\n{LIVELY}'
    home.write()
    fronts = [
        TlsFront(port, deployment.port, deployment.directory)
        for port, deployment in zip(ports, (home, remote), strict=True)
    ]
    try:
        home.start()
        remote.start()
        home.wait_ready()
        remote.wait_ready()
        yield World(home, remote, gateway, appservice)
    finally:
        for closing in (home, remote, gateway, appservice, *fronts):
            closing.close()
