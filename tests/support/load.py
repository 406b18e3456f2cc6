"""Users who talk over a homeserver with matrix-nio, and write down whatever goes wrong.

    target/client/bin/python -m tests.support.load PORT [--seconds N] [--record FILE]

Lines on standard input steer it: `phase NAME` says what is happening meanwhile, `breathe` is answered once
every kind of operation has succeeded that began later, `stop` (or the end of the input) ends it. Each is
answered by one line of JSON, `stop` by the report (tests/support/ledger.py). `traffic.py` is the other end.

nio and aiohttp hide failures by trying again; both are kept from it here, so that each attempt is seen. A
failed send is tried again by the user with the same transaction, as any client does, and counts as failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import asdict
from functools import partial
from typing import IO, Any

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout
from nio import AsyncClient, AsyncClientConfig, ErrorResponse, RoomPreset, ToDeviceMessage

from .ledger import Ledger, Request

PASSWORD = "a password"
# A client gives up later than anything between it and Synapse does.
PATIENCE = ClientTimeout(total=90)
# Of a long-poll, in seconds; many of them are open when a process stops.
POLL = 8.0
# Between two polls of a user: what happens in between comes in one answer, as with a busy client.
PAUSE = 2.0
# More events than a room sees between two polls, or `limited` would hide some (Synapse's default is 10).
FILTER = {"room": {"timeline": {"limit": 500}}}
# How long a member may take to receive what was accepted, and a try again of a send.
DEADLINE = 90.0

OPERATION: ContextVar[str] = ContextVar("operation", default="frame")
# What a user does, and how often relative to the rest.
WEIGHTS = {
    "send": 5,
    "typing": 3,
    "receipt": 3,
    "to_device": 3,
    "upload": 2,
    "download": 3,
    "profile_set": 1,
    "profile_get": 3,
    "messages": 2,
    # Some ten calls between processes, during each of which one of them may be asked to stop.
    "room_create": 1,
}
KINDS = ["sync", *WEIGHTS]


class Book:
    """The ledger, with a clock and a file."""

    def __init__(self, record: IO[str] | None) -> None:
        self.ledger, self.record = Ledger(), record
        self.origin = time.monotonic()
        # How often each kind has succeeded with a beginning after the last `breathe`.
        self.fresh: Counter[str] = Counter()
        self.since = 0.0

    def now(self) -> float:
        return time.monotonic() - self.origin

    def enter(self, request: Request) -> None:
        self.ledger.enter(request)
        if not request.failed and request.started >= self.since:
            self.fresh[request.operation] += 1
        if self.record:
            self.record.write(json.dumps(asdict(request)) + "\n")

    def begin_breath(self) -> None:
        self.since, self.fresh = self.now(), Counter()

    def missing(self) -> list[str]:
        """Kinds that `breathe` waits for."""
        return [kind for kind in KINDS if not self.fresh[kind]]


class User(AsyncClient):
    """A client that tries nothing twice and enters every attempt."""

    def __init__(self, url: str, name: str, book: Book) -> None:
        config = AsyncClientConfig(max_limit_exceeded=0, max_timeouts=0, encryption_enabled=False)
        super().__init__(url, name, config=config)
        self.book = book
        self.client_session = ClientSession()
        # aiohttp sends GET, PUT and DELETE again when a kept connection turns out to be closed.
        self.client_session._retry_connection = False
        self.joined: list[str] = []
        # It does one thing at a time, beside its polls.
        self.turn = asyncio.Lock()
        # The last name, and the rooms that have not heard of it.
        self.name, self.unaware = "", set[str]()

    async def send(
        self,
        method: str,
        path: str,
        data: Any = None,
        headers: dict[str, str] | None = None,
        trace_context: Any = None,
        timeout: float | None = None,
    ) -> ClientResponse:
        assert self.client_session
        book, started, before = self.book, self.book.now(), self.book.ledger.phase
        status: int | None = None
        error: str | None = None
        try:
            url = self.homeserver + path
            async with self.client_session.request(
                method, url, data=data, headers=headers, timeout=PATIENCE
            ) as response:
                # nio reads later, where a connection that breaks in the middle would not be seen.
                body = await response.read()
            status = response.status
            if status >= 400:
                error = body[:300].decode(errors="replace")
            return response
        except (ClientError, TimeoutError, asyncio.TimeoutError, OSError) as failure:
            error = repr(failure)
            raise
        finally:
            phases = (before, book.ledger.phase)
            where = path.partition("?")[0]
            book.enter(Request(OPERATION.get(), method, where, phases, started, book.now(), status, error))

    def misread(self, why: str) -> None:
        """An answer that said 200 and was none."""
        now, phase = self.book.now(), self.book.ledger.phase
        self.book.enter(Request(OPERATION.get(), "-", "-", (phase, phase), now, now, 200, why))

    async def ask(self, operation: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """The answer, or None where there was none; whatever went wrong is in the book."""
        OPERATION.set(operation)
        try:
            answer = await call()
        except (ClientError, TimeoutError, asyncio.TimeoutError, OSError):
            return None
        if isinstance(answer, ErrorResponse):
            transport = answer.transport_response
            if transport is not None and transport.status < 400:
                self.misread(str(answer))
            return None
        return answer


class Crowd:
    """The users, their rooms, and what they do."""

    def __init__(
        self, port: int, users: int, rooms: int, rate: float, seed: int, record: IO[str] | None
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.book = Book(record)
        self.random = random.Random(seed)
        self.count, self.rooms_wanted, self.rate = users, rooms, rate
        self.users: list[User] = []
        self.rooms: list[str] = []
        # URI and bytes of media that were accepted.
        self.media: list[tuple[str, bytes]] = []
        # The last event that each user saw in a room, to say that it was read.
        self.seen: dict[tuple[str, str], str] = {}
        self.acting, self.polling = True, True

    # Setting up ---------------------------------------------------------------------------------------------

    async def must(self, call: Callable[[], Awaitable[Any]], user: User) -> Any:
        """For what the load cannot be without, before and after it."""
        answer = await user.ask("frame", call)
        if answer is None:
            raise SystemExit(f"the load cannot go on: {self.book.ledger.failures[-1:]}")
        return answer

    async def begin(self) -> None:
        tag = uuid.uuid4().hex[:8]
        names = [f"load-{tag}-{number}" for number in range(self.count)]
        self.users = [User(self.url, name, self.book) for name in names]
        # A few at a time: by default each costs the server a quarter of a second of bcrypt.
        for start in range(0, self.count, 4):
            some = self.users[start : start + 4]
            await asyncio.gather(*(self.must(lambda u=u: u.register(u.user, PASSWORD), u) for u in some))
        self.rooms = await asyncio.gather(
            *(self.room(self.members_of(number)) for number in range(self.rooms_wanted))
        )
        for user in self.users:
            # What was there before is not counted: from here on everything must arrive.
            await self.must(lambda u=user: u.sync(timeout=0, sync_filter=FILTER), user)
        await self.upload(self.users[0])

    async def room(self, members: list[User]) -> str:
        founder, *others = members
        created = await self.must(lambda: founder.room_create(preset=RoomPreset.public_chat), founder)
        room: str = created.room_id
        for user in others:
            await self.must(lambda u=user: u.join(room), user)
        for user in members:
            user.joined.append(room)
        self.book.ledger.members[room] = {user.user_id for user in members}
        return room

    def members_of(self, room: int) -> list[User]:
        """Every fourth user is in the last room alone, where little happens: their polls last."""
        quiet = self.users[3::4]
        if room == self.rooms_wanted - 1:
            return quiet
        busy = [user for user in self.users if user not in quiet]
        size = max(2, 2 * len(busy) // (self.rooms_wanted - 1))
        first = room * len(busy) // (self.rooms_wanted - 1)
        return [busy[(first + step) % len(busy)] for step in range(min(size, len(busy)))]

    # What a user does ---------------------------------------------------------------------------------------

    async def send(self, user: User) -> None:
        room = self.random.choice(user.joined)
        text = f"{user.user_id} {uuid.uuid4()}"
        transaction, ledger = str(uuid.uuid4()), self.book.ledger
        content = {"msgtype": "m.text", "body": text}
        ledger.unanswered.add(text)
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            answer = await user.ask(
                "send", lambda: user.room_send(room, "m.room.message", content, tx_id=transaction)
            )
            if answer is not None:
                ledger.accepted[answer.event_id] = (room, text)
                ledger.unanswered.discard(text)
                return
            await asyncio.sleep(0.3)

    async def typing(self, user: User) -> None:
        room, on = self.random.choice(user.joined), self.random.random() < 0.5
        await user.ask("typing", lambda: user.room_typing(room, on, timeout=5000))

    async def receipt(self, user: User) -> None:
        read = [room for room in user.joined if (user.user_id, room) in self.seen]
        if read:
            room = self.random.choice(read)
            event = self.seen[user.user_id, room]
            await user.ask("receipt", lambda: user.update_receipt_marker(room, event))

    async def to_device(self, user: User) -> None:
        other = self.random.choice([one for one in self.users if one is not user])
        key = str(uuid.uuid4())
        message = ToDeviceMessage("org.example.load", other.user_id, other.device_id, {"key": key})
        ledger = self.book.ledger
        ledger.to_device_unanswered[key] = other.user_id
        # Never sent again: Synapse remembers these transactions only as long as the process lives
        # (rest/client/transactions.py, 1.163).
        if await user.ask("to_device", lambda: user.to_device(message, tx_id=key)) is not None:
            ledger.to_device[key] = ledger.to_device_unanswered.pop(key)

    async def upload(self, user: User) -> None:
        data = self.random.randbytes(self.random.choice((5_000, 60_000, 400_000)))
        # Some come slowly, so that they are under way when a process is asked to stop.
        pause = 0.1 if self.random.random() < 0.3 else 0.0

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(data), len(data) // 5):
                yield data[start : start + len(data) // 5]
                if pause:
                    await asyncio.sleep(pause)

        def provider(*_: Any) -> AsyncIterator[bytes]:
            return chunks()

        async def call() -> Any:
            return (await user.upload(provider, filesize=len(data)))[0]

        answer = await user.ask("upload", call)
        if answer is not None:
            self.media = [*self.media[-20:], (answer.content_uri, data)]

    async def download(self, user: User) -> None:
        uri, data = self.random.choice(self.media)
        answer = await user.ask("download", lambda: user.download(mxc=uri))
        if answer is not None and answer.body != data:
            user.misread(f"{uri} has other bytes than were uploaded")

    async def profile_set(self, user: User) -> None:
        # Who takes another name in the moment when rooms begin to hear of the last one makes Synapse keep two
        # tasks, and fail at the next name (`handlers/profile.py`, 1.163: "Expected at most one task").
        if user.unaware:
            return
        user.name, user.unaware = f"name {uuid.uuid4()}", set(user.joined)
        if await user.ask("profile_set", lambda: user.set_displayname(user.name)) is None:
            # Nobody may ever hear of it; it is tried again with another one, much later.
            user.unaware.clear()

    async def profile_get(self, user: User) -> None:
        other = self.random.choice(self.users).user_id
        await user.ask("profile_get", lambda: user.get_profile(other))

    async def messages(self, user: User) -> None:
        room = self.random.choice(user.joined)
        await user.ask("messages", lambda: user.room_messages(room, start=user.next_batch, limit=20))

    async def room_create(self, user: User) -> None:
        await user.ask("room_create", lambda: user.room_create(name="a room", topic="nothing"))

    # The two halves of a user -------------------------------------------------------------------------------

    async def act(self, user: User) -> None:
        kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
        pause = self.count / self.rate * (4 if self.is_quiet(user) else 1)
        await asyncio.sleep(self.random.random() * pause)
        while self.acting:
            await self.do(self.random.choices(kinds, weights)[0], user)
            await asyncio.sleep(self.random.uniform(0.5, 1.5) * pause)

    def is_quiet(self, user: User) -> bool:
        return user.joined == [self.rooms[-1]]

    async def do(self, kind: str, user: User) -> None:
        async with user.turn:
            await getattr(self, kind)(user)

    async def breathe(self) -> None:
        """Has somebody do whatever has not succeeded since, until all has."""
        self.book.begin_breath()
        busy = [user for user in self.users if not self.is_quiet(user)]
        while missing := self.book.missing():
            wanted = [kind for kind in missing if kind in WEIGHTS]
            await asyncio.gather(*(self.do(kind, self.random.choice(busy)) for kind in wanted))
            await asyncio.sleep(0.1)

    async def poll(self, user: User) -> None:
        while self.polling:
            await self.poll_once(user, POLL)
            await asyncio.sleep(PAUSE if self.acting else 0.1)

    async def poll_once(self, user: User, wait: float) -> None:
        since = user.next_batch
        milliseconds = int(wait * 1000)
        answer = await user.ask("sync", lambda: user.sync(timeout=milliseconds, sync_filter=FILTER))
        if answer is None:
            return
        ledger = self.book.ledger
        for event in answer.to_device_events:
            key = event.source.get("content", {}).get("key")
            if key:
                ledger.to_device_synced[user.user_id][key] += 1
        for room, joined in answer.rooms.join.items():
            # Of a room that is new to the user Synapse says so always (`synapse/handlers/sync.py`).
            if joined.timeline.limited and room in user.joined:
                user.misread(f"the timeline of {room} since {since} is limited: the load outran its filter")
            for event in joined.timeline.events:
                if event.source["type"] == "m.room.message":
                    ledger.synced[user.user_id][event.event_id] += 1
                    self.seen[user.user_id, room] = event.event_id
                elif event.source.get("content", {}).get("displayname") == user.name:
                    user.unaware.discard(room)

    async def history(self, room: str) -> list[tuple[str, str]]:
        """Event and text of every message that the room has, by `/messages` from its end to its beginning."""
        reader = next(user for user in self.users if room in user.joined)
        found: list[tuple[str, str]] = []
        start: str | None = reader.next_batch
        while start:
            page = await self.must(partial(reader.room_messages, room, start, limit=200), reader)
            for event in page.chunk:
                if event.source["type"] == "m.room.message":
                    found.append((event.event_id, event.source["content"]["body"]))
            start = page.end
        return found

    async def run(self, steer: Callable[[Crowd], Awaitable[None]]) -> dict[str, Any]:
        await self.begin()
        actors = [asyncio.create_task(self.act(user)) for user in self.users]
        pollers = [asyncio.create_task(self.poll(user)) for user in self.users]
        try:
            await steer(self)
            self.acting = False
            await asyncio.gather(*actors)
            deadline = time.monotonic() + DEADLINE
            while not self.book.ledger.complete() and time.monotonic() < deadline:
                await asyncio.sleep(0.2)
            self.polling = False
            await asyncio.gather(*pollers)
            for user in self.users:
                # What came twice would come now.
                await self.poll_once(user, 0)
            history = {room: await self.history(room) for room in self.rooms}
            return {
                "users": len(self.users),
                "rooms": len(self.rooms),
                "seconds": round(self.book.now(), 1),
                **self.book.ledger.report(history),
            }
        finally:
            for task in (*actors, *pollers):
                task.cancel()
            await asyncio.gather(*actors, *pollers, return_exceptions=True)
            for user in self.users:
                await user.close()


def say(line: Any) -> None:
    print(json.dumps(line), flush=True)


async def follow_standard_input(crowd: Crowd) -> None:
    say({"ready": True})
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode():
        word, _, rest = line.strip().partition(" ")
        if word == "phase":
            crowd.book.ledger.phase = rest
        elif word == "breathe":
            await crowd.breathe()
        elif word == "stop":
            return
        else:
            raise SystemExit(f"{line!r}: say phase NAME, breathe or stop")
        say({word: rest})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.load")
    parser.add_argument("port", type=int)
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--rooms", type=int, default=4)
    parser.add_argument(
        "--rate", type=float, default=4.0, help="operations a second besides sync, of all users"
    )
    parser.add_argument(
        "--weight", action="append", default=[], metavar="OPERATION=N", help="how often, relative to the rest"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="stop after so long instead of reading standard input")
    parser.add_argument("--record", help="write every request to this file, a line of JSON each")
    arguments = parser.parse_args()
    for operation, _, weight in (entry.partition("=") for entry in arguments.weight):
        if operation not in WEIGHTS:
            parser.error(f"there is no operation {operation}; there are {', '.join(WEIGHTS)}")
        WEIGHTS[operation] = int(weight)
    record = open(arguments.record, "w", encoding="utf-8") if arguments.record else None  # noqa: SIM115
    crowd = Crowd(arguments.port, arguments.users, arguments.rooms, arguments.rate, arguments.seed, record)

    async def for_a_while(_: Crowd) -> None:
        await asyncio.sleep(arguments.seconds)

    report = asyncio.run(crowd.run(for_a_while if arguments.seconds else follow_standard_input))
    say(report)
    if record:
        record.close()


if __name__ == "__main__":
    main()
