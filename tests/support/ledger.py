"""What a load asked of a homeserver, what it was told, and what of it arrived; pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

# As many failures as a report prints in full; the rest is counted.
SHOWN = 200


@dataclass(frozen=True)
class Request:
    """One HTTP request, as the client saw it; times in seconds since the load began."""

    operation: str
    method: str
    path: str
    # When it began and when it ended; a restart in between belongs to either.
    phases: tuple[str, str]
    started: float
    ended: float
    status: int | None
    error: str | None

    @property
    def failed(self) -> bool:
        return self.error is not None or self.status is None or self.status >= 400


@dataclass
class Ledger:
    """Everything is entered as it happens; `verdict` compares it at the end."""

    phase: str = "begin"
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failures: list[Request] = field(default_factory=list)
    failed: int = 0
    slowest: dict[str, float] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)
    # Room and text by event: what the server said that it has.
    accepted: dict[str, tuple[str, str]] = field(default_factory=dict)
    # Messages whose sender was never told: they may have arrived or not.
    unanswered: set[str] = field(default_factory=set)
    synced: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    # Receiver by message to a device.
    to_device: dict[str, str] = field(default_factory=dict)
    to_device_unanswered: dict[str, str] = field(default_factory=dict)
    to_device_synced: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def enter(self, request: Request) -> None:
        outcome = "failed" if request.failed else "ok"
        self.counts[request.phases[1]][f"{request.operation} {outcome}"] += 1
        took = request.ended - request.started
        self.slowest[request.operation] = max(took, self.slowest.get(request.operation, 0.0))
        if request.failed:
            self.failed += 1
            if len(self.failures) < SHOWN:
                self.failures.append(request)

    def arrived(self, user: str, room: str) -> bool:
        """Whether this member has by sync whatever was accepted in the room."""
        got = self.synced[user]
        return all(event in got for event, (of, _) in self.accepted.items() if of == room)

    def complete(self) -> bool:
        """Whether everybody has everything that was accepted."""
        everywhere = all(self.arrived(user, room) for room, users in self.members.items() for user in users)
        return everywhere and all(self.to_device_synced[user][key] for key, user in self.to_device.items())

    def verdict(self, history: dict[str, list[tuple[str, str]]]) -> tuple[list[str], list[str]]:
        """What is lost and what is doubled, a sentence each.

        `history` is event and text of every room's `/messages`.
        """
        lost, doubled = [], []
        for room, events in history.items():
            ids = Counter(event for event, _ in events)
            texts = Counter(text for _, text in events)
            doubled += [f"{text!r} stands {n} times in {room}" for text, n in texts.items() if n > 1]
            for event, (of, text) in self.accepted.items():
                if of == room and not ids[event]:
                    lost.append(f"{text!r} ({event}) was accepted in {room} and is not in /messages")
        for event, (room, text) in self.accepted.items():
            for user in sorted(self.members[room]):
                if not self.synced[user][event]:
                    lost.append(f"{text!r} ({event}) in {room} never reached {user} by sync")
        for user, events_of in self.synced.items():
            doubled += [f"{event} reached {user} {n} times" for event, n in events_of.items() if n > 1]
        for key, user in self.to_device.items():
            if not self.to_device_synced[user][key]:
                lost.append(f"{key!r} was accepted for the device of {user} and never reached it")
        for user, keys in self.to_device_synced.items():
            doubled += [f"{key!r} reached the device of {user} {n} times" for key, n in keys.items() if n > 1]
        return lost, doubled

    def report(self, history: dict[str, list[tuple[str, str]]]) -> dict[str, Any]:
        lost, doubled = self.verdict(history)
        operations: Counter[str] = Counter()
        for counted in self.counts.values():
            operations.update(counted)
        return {
            "requests": sum(operations.values()),
            "failed": self.failed,
            "lost": lost,
            "doubled": doubled,
            "accepted": len(self.accepted),
            "unanswered": len(self.unanswered),
            "to_device_accepted": len(self.to_device),
            "to_device_unanswered": len(self.to_device_unanswered),
            "operations": dict(sorted(operations.items())),
            "phases": {phase: dict(sorted(counted.items())) for phase, counted in self.counts.items()},
            "slowest_ms": {name: round(took * 1000) for name, took in sorted(self.slowest.items())},
            "failures": [asdict(failure) for failure in self.failures],
        }
