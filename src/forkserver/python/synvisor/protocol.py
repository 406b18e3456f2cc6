"""What the supervisor and the fork server say to each other: one JSON object a datagram."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

VERSION = 1
"""Raised when a message changes its meaning."""

BEFORE_LISTENERS = 3
"""A request's descriptors: output, go, lock, and then one for each listener."""

MOST_BYTES = 256 * 1024
"""Of a message; more than an environment may reasonably hold, and less than a socket's buffer for one."""

MOST_DESCRIPTORS = 253
"""Of a message (SCM_MAX_FD of Linux)."""

JSON_NAMES = {bool: "true or false", int: "a number", str: "a string"}

T = TypeVar("T")


class Malformed(Exception):
    """A message that cannot be followed, with a sentence that says why."""


@dataclass(frozen=True)
class Process:
    """A process of Synapse, as it is to be started."""

    unit: str
    app: str
    """The module whose `main` is called."""
    arguments: tuple[str, ...]
    listeners: tuple[str, ...]
    """Paths of the Unix sockets that are handed over, in the order of their descriptors."""
    environment: Mapping[str, str]
    """All of it: nothing of the fork server's is kept."""
    directory: str
    umask: int
    nice: int
    stop_deadline_ms: int
    """From SIGTERM until what is still in flight is cut."""
    redis: bool
    """Whether Synapse is to be connected to one before it counts as ready."""
    without: tuple[str, ...] = ()
    """Changes to leave out, so that a test can see what they are for: "child" (graceful stop), "pool"."""


@dataclass(frozen=True)
class Fork:
    """The request to start a process. It starts when a byte comes out of its go pipe."""

    unit: str
    incarnation: int
    process: Process


@dataclass(frozen=True)
class Hello:
    """The first message on a connection: what this server can fork, or why it cannot."""

    synapse: str
    problems: list[str]
    protocol: int = VERSION
    type: str = field(default="hello", init=False)


@dataclass(frozen=True)
class Forked:
    """The answer to a request: the process exists, is the supervisor's child, and waits for its byte."""

    unit: str
    incarnation: int
    pid: int
    type: str = field(default="forked", init=False)


@dataclass(frozen=True)
class Failed:
    """The answer to a request that could not be followed; unit and incarnation are null where it did not say
    them.
    """

    unit: str | None
    incarnation: int | None
    reason: str
    type: str = field(default="failed", init=False)


def encode(message: Hello | Forked | Failed) -> bytes:
    """A message as it is sent."""
    return json.dumps(dataclasses.asdict(message)).encode()


def decode_object(data: bytes | str) -> dict[str, Any]:
    """The object that a text holds; raises Malformed."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"the message is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Malformed(f"the message is {type(value).__name__}, not an object")
    return value


def decode_fork(message: dict[str, Any]) -> Fork:
    """The request that an object is; raises Malformed."""
    if message.get("type") != "fork":
        raise Malformed(f'unknown type of message {message.get("type")!r}: only "fork" is known')
    request = decode(Fork, message)
    if request.process.unit != request.unit:
        raise Malformed(f"the request is for {request.unit} and its process for {request.process.unit}")
    return request


def decode(kind: type[T], value: object, place: str = "") -> T:
    """The dataclass `kind` from a JSON value; keys that it does not have are ignored. Raises Malformed."""
    if not isinstance(value, dict):
        raise Malformed(f"{place or 'the message'} must be an object")
    hints = get_type_hints(kind)
    prefix = f"{place}." if place else ""
    found: dict[str, Any] = {}
    for one in dataclasses.fields(kind):  # type: ignore[arg-type]
        if one.name in value:
            found[one.name] = _checked(hints[one.name], value[one.name], prefix + one.name)
        elif one.default is dataclasses.MISSING:
            raise Malformed(f"{prefix}{one.name} is missing")
    return kind(**found)


def _checked(hint: Any, value: object, place: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return decode(hint, value, place)
    if get_origin(hint) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise Malformed(f"{place} must be a list of strings")
    if get_args(hint) == (str, str):
        if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
            return value
        raise Malformed(f"{place} must be an object of strings")
    # In Python true is a number, in JSON it is none.
    if not isinstance(value, hint) or isinstance(value, bool) != (hint is bool):
        raise Malformed(f"{place} must be {JSON_NAMES[hint]}")
    return value
