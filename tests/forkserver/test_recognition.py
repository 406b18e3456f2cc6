"""What the changes rely on is looked for, whatever it is that is missing."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from synvisor import recognition


def test_this_synapse_is_recognised() -> None:
    assert recognition.problems() == []


# Mutation: the check of parameters left out: seen red.
@pytest.mark.parametrize("needed", recognition.NEEDED, ids=lambda needed: f"{needed.module}.{needed.path}")
def test_whatever_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, needed: recognition.Needed) -> None:
    owner: Any = importlib.import_module(needed.module)
    *above, name = needed.path.split(".")
    for part in above:
        owner = getattr(owner, part)
    if needed.parameters:
        monkeypatch.setattr(owner, name, lambda: None)
        wanted = f"{needed.module}.{needed.path} does not take {', '.join(needed.parameters)}"
        assert wanted in recognition.problems()
    elif name in vars(owner):
        monkeypatch.delattr(owner, name)
        assert f"{needed.module}.{needed.path} does not exist" in recognition.problems()
    else:
        unknown = recognition.Needed(needed.module, f"{needed.path}_")
        monkeypatch.setattr(recognition, "NEEDED", (unknown,))
        assert f"{needed.module}.{needed.path}_ does not exist" in recognition.problems()


def test_a_module_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognition, "NEEDED", (recognition.Needed("synapse.gone", "a"),))
    assert recognition.problems() == ["synapse.gone.a does not exist"]


def test_another_reactor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.internet import selectreactor

    other = object.__new__(selectreactor.SelectReactor)
    real = importlib.import_module

    def found(name: str) -> Any:
        return other if name == "twisted.internet.reactor" else real(name)

    monkeypatch.setattr(importlib, "import_module", found)
    expected = "the reactor is twisted.internet.selectreactor.SelectReactor, not Twisted's epoll reactor"
    assert recognition.problems() == [expected]


def test_a_connection_that_would_not_be_watched_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from synapse.http.site import SynapseProtocol

    monkeypatch.setattr(
        SynapseProtocol, "checkPersistence", lambda self, request, version: True, raising=False
    )
    expected = "synapse.http.site.SynapseProtocol has a checkPersistence of its own"
    assert expected in recognition.problems()
