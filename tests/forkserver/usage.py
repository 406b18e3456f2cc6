"""What a client does in its first minutes, so that a server has loaded what it loads for one."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any
from urllib.parse import quote

from .homeserver import Connection

V3 = "/_matrix/client/v3"


def picture() -> bytes:
    """A grey PNG of 64 by 64."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * 64) * 64)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def use(connection: Connection, user: str, *, main: bool = True) -> str:
    """Registers, talks, uploads and looks around, as far as main or a worker can do it; returns the user's
    token.
    """

    def ask(method: str, target: str, body: Any = None, token: str = "", accepted: int = 200) -> Any:
        response = connection.ask(method, target, body, token)
        data = response.read()
        assert response.status == accepted, (method, target, response.status, data)
        return json.loads(data) if data.startswith((b"{", b"[")) else data

    register = {"auth": {"type": "m.login.dummy"}, "username": user, "password": "p"}
    ask("POST", f"{V3}/register", register)
    login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": user}, "password": "p"}
    token: str = ask("POST", f"{V3}/login", login)["access_token"]
    room = quote(ask("POST", f"{V3}/createRoom", {"preset": "public_chat", "name": "a"}, token)["room_id"])
    event = {
        "msgtype": "m.text",
        "body": "a",
        "format": "org.matrix.custom.html",
        "formatted_body": "<b>a</b>",
    }
    ask("PUT", f"{V3}/rooms/{room}/send/m.room.message/1", event, token)
    ask("GET", f"{V3}/rooms/{room}/messages?dir=b", None, token)
    ask("GET", f"{V3}/sync?timeout=0", None, token)
    if main:
        ask("GET", "/_synapse/metrics")
        ask(
            "PUT", f"{V3}/rooms/{room}/typing/%40{user}%3Alocalhost", {"typing": True, "timeout": 1000}, token
        )
    ask("GET", f"{V3}/publicRooms", None, token)
    ask("POST", f"{V3}/search", {"search_categories": {"room_events": {"search_term": "a"}}}, token)
    ask("POST", f"{V3}/user_directory/search", {"search_term": "a"}, token)
    ask("POST", f"{V3}/keys/query", {"device_keys": {}}, token)
    ask("GET", f"{V3}/capabilities", None, token)
    ask("GET", f"{V3}/pushrules/", None, token)
    ask("GET", f"{V3}/devices", None, token)
    ask("GET", "/_matrix/client/versions")
    ask("GET", "/_matrix/key/v2/server")
    ask("GET", "/_matrix/federation/v1/version")
    ask("GET", "/health")
    if main:
        media = ask("POST", "/_matrix/media/v3/upload?filename=a.png", picture(), token)["content_uri"]
        name = media.removeprefix("mxc://")
        ask("GET", f"/_matrix/client/v1/media/thumbnail/{name}?width=32&height=32&method=crop", None, token)
        ask("GET", f"/_matrix/client/v1/media/download/{name}", None, token)
    return token
