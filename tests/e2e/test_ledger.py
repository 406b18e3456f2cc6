"""The judge of the load test is judged: what is lost or doubled is seen, and nothing else."""

from __future__ import annotations

from tests.support.ledger import Ledger, Request

A, B = "@a:x", "@b:x"


def ledger() -> Ledger:
    """Two members of one room, who both have the one message; B has the one message to its device."""
    book = Ledger(members={"!r": {A, B}}, accepted={"$1": ("!r", "one")}, to_device={"k": B})
    for user in (A, B):
        book.synced[user]["$1"] += 1
    book.to_device_synced[B]["k"] += 1
    return book


HISTORY = {"!r": [("$1", "one")]}


def test_what_arrived_once_is_neither_lost_nor_doubled() -> None:
    book = ledger()
    assert book.complete()
    assert book.verdict(HISTORY) == ([], [])


def test_what_did_not_arrive_is_lost() -> None:
    # Mutations of verdict, each seen red: members not looked at; /messages not looked at; no to-device.
    book = ledger()
    assert len(book.verdict({"!r": []})[0]) == 1
    del book.synced[B]["$1"]
    assert not book.complete()
    assert [line for line in book.verdict(HISTORY)[0] if B in line]
    book = ledger()
    del book.to_device_synced[B]["k"]
    assert not book.complete()
    assert [line for line in book.verdict(HISTORY)[0] if "'k'" in line]


def test_what_arrived_twice_is_doubled() -> None:
    # Mutations of verdict, each seen red: events compared in place of texts; `> 1` as `> 2`.
    assert len(ledger().verdict({"!r": [("$1", "one"), ("$2", "one")]})[1]) == 1
    book = ledger()
    book.synced[A]["$1"] += 1
    book.to_device_synced[B]["k"] += 1
    lost, doubled = book.verdict(HISTORY)
    assert not lost
    assert len(doubled) == 2


def test_what_nobody_was_told_may_have_arrived_or_not() -> None:
    book = ledger()
    book.unanswered.add("two")
    assert book.verdict(HISTORY) == ([], [])
    assert book.verdict({"!r": [*HISTORY["!r"], ("$2", "two")]}) == ([], [])


def test_every_refusal_and_every_broken_connection_has_failed() -> None:
    # Mutations of Request.failed, each seen red: `>= 500`; no look at the error.
    book = Ledger()
    outcomes = [(200, None), (429, None), (502, "bad"), (404, None), (None, "ClientError()")]
    for number, (status, error) in enumerate(outcomes):
        book.enter(Request("send", "PUT", "/", ("p", "q"), 0.0, float(number), status, error))
    report = book.report({})
    assert (report["requests"], report["failed"]) == (5, 4)
    assert report["phases"] == {"q": {"send failed": 4, "send ok": 1}}
    assert report["slowest_ms"] == {"send": 4000}
