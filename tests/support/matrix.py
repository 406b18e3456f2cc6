"""A Matrix client of the size that the demo and the tests need, on the standard library alone."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
import uuid
from typing import Any

Json = dict[str, Any]


class MatrixError(Exception):
    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


def quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")


class Client:
    """One user of one homeserver."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.host, self.port = host, port
        self.token: str | None = None
        self.user = ""
        self.device = ""
        self.since: str | None = None

    def raw(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], timeout: float = 60
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            if self.token:
                headers = {"Authorization": f"Bearer {self.token}", **headers}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def call(self, method: str, path: str, body: Json | None = None, timeout: float = 60) -> Json:
        data = None if body is None else json.dumps(body).encode()
        status, text = self.raw(method, path, data, {"Content-Type": "application/json"}, timeout)
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = text.decode(errors="replace")
        if status >= 400:
            raise MatrixError(status, parsed)
        return parsed

    def insist(self, method: str, path: str, body: Json | None = None, seconds: float = 60) -> Json:
        """Like a client that was told to wait, or whose connection broke: the same request again."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.call(method, path, body)
            except (OSError, http.client.HTTPException) as error:
                failure: Exception = error
            except MatrixError as error:
                if error.status not in (429, 500, 502, 503, 504):
                    raise
                failure = error
            if time.monotonic() > deadline:
                raise failure
            time.sleep(0.2)

    def _logged_in(self, answer: Json) -> Client:
        self.token, self.user, self.device = answer["access_token"], answer["user_id"], answer["device_id"]
        return self

    def register(self, name: str, password: str) -> Client:
        path = "/_matrix/client/v3/register"
        body: Json = {"username": name, "password": password}
        try:
            return self._logged_in(self.call("POST", path, body))
        except MatrixError as error:
            if error.status != 401:
                raise
            body["auth"] = {"type": "m.login.dummy", "session": error.body["session"]}
        return self._logged_in(self.call("POST", path, body))

    def login(self, name: str, password: str) -> Client:
        identifier = {"type": "m.id.user", "user": name}
        body = {"type": "m.login.password", "identifier": identifier, "password": password}
        return self._logged_in(self.call("POST", "/_matrix/client/v3/login", body))

    def create_room(self, **settings: Any) -> str:
        return self.insist("POST", "/_matrix/client/v3/createRoom", settings)["room_id"]

    def invite(self, room: str, user: str) -> None:
        self.insist("POST", f"/_matrix/client/v3/rooms/{quote(room)}/invite", {"user_id": user})

    def join(self, room: str, *servers: str) -> None:
        query = "&".join(f"server_name={quote(server)}&via={quote(server)}" for server in servers)
        self.insist("POST", f"/_matrix/client/v3/join/{quote(room)}?{query}", {})

    def send(self, room: str, text: str) -> str:
        """Sends a message once, however often it has to be tried."""
        path = f"/_matrix/client/v3/rooms/{quote(room)}/send/m.room.message/{uuid.uuid4()}"
        return self.insist("PUT", path, {"msgtype": "m.text", "body": text})["event_id"]

    def sync(self, timeout: float = 0) -> Json:
        query = f"timeout={int(timeout * 1000)}" + (f"&since={quote(self.since)}" if self.since else "")
        answer = self.call("GET", f"/_matrix/client/v3/sync?{query}", timeout=timeout + 60)
        self.since = answer["next_batch"]
        return answer

    def wait_for_message(self, room: str, text: str, seconds: float = 60) -> Json:
        """Syncs until the message is there."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            joined = self.sync(timeout=5 if self.since else 0).get("rooms", {})
            for event in joined.get("join", {}).get(room, {}).get("timeline", {}).get("events", []):
                if event.get("content", {}).get("body") == text:
                    return event
        raise AssertionError(f"{self.user} never saw {text!r}")

    def messages(self, room: str) -> list[str]:
        """The text of every message of a room, oldest first."""
        texts: list[str] = []
        start = ""
        while True:
            path = f"/_matrix/client/v3/rooms/{quote(room)}/messages?dir=f&limit=100{start}"
            page = self.insist("GET", path)
            texts += [
                event["content"]["body"] for event in page["chunk"] if "body" in event.get("content", {})
            ]
            if "end" not in page:
                return texts
            start = f"&from={quote(page['end'])}"

    def upload(self, data: bytes, kind: str = "application/octet-stream") -> str:
        status, text = self.raw("POST", "/_matrix/media/v3/upload", data, {"Content-Type": kind})
        if status != 200:
            raise MatrixError(status, text)
        return json.loads(text)["content_uri"]

    def download(self, uri: str) -> bytes:
        path = f"/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
        status, data = self.raw("GET", path, None, {})
        if status != 200:
            raise MatrixError(status, data)
        return data
