"""What a homeserver talks to: a push gateway, an application service, a TLS front for federation."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Recorder:
    """An HTTP server that says yes to everything and keeps what it was told."""

    def __init__(self) -> None:
        self.requests: queue.Queue[tuple[str, Any]] = queue.Queue()
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                with contextlib.suppress(ValueError):
                    recorder.requests.put((self.path, json.loads(body or b"{}")))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST = do_PUT = answer

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing: pytest shows the output of failing tests only."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait_for(self, text: str, seconds: float = 60) -> tuple[str, Any]:
        """The first request whose path or body contains the text."""
        while True:
            try:
                path, body = self.requests.get(timeout=seconds)
            except queue.Empty:
                raise AssertionError(f"nobody sent {text!r}") from None
            if text in path or text in json.dumps(body):
                return path, body

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def appservice_registration(url: str, path: Path) -> Path:
    path.write_text(
        f"""id: probe
url: "{url}"
as_token: as-token
hs_token: hs-token
sender_localpart: probe
namespaces:
  users: []
  aliases: []
  rooms:
    - exclusive: false
      regex: ".*"
""",
        encoding="utf-8",
    )
    return path


def issue(directory: Path, days: int, host: str = "localhost") -> None:
    """A certificate and its key, as an ACME client leaves them."""
    key, file = directory / "tls.key", directory / "tls.crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", str(days)]
    names = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    files = ["-keyout", str(key), "-out", str(file)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)


def certificate(directory: Path) -> ssl.SSLContext:
    """What localhost proves itself with; whoever is to believe it reads `tls.crt`."""
    key, file = directory / "tls.key", directory / "tls.crt"
    issue(directory, 2)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return context


class Acceptor:
    """Serves each connection to a port of this machine in a thread of its own; 0 is any port."""

    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def close(self) -> None:
        stop_listening(self.listener)


class TlsFront(Acceptor):
    """Takes TLS off and passes the bytes on: what a front proxy does for federation.

    `says` makes of the X-Forwarded-For that a connection's first request came with, if any, what goes on.
    """

    def __init__(self, port: int, target: int, directory: Path) -> None:
        self.context = certificate(directory)
        self.target = target
        self.says: Callable[[str], str] | None = None
        super().__init__(port)

    def serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), self.context.wrap_socket(connection, server_side=True) as client:
            upstream = socket.create_connection(("127.0.0.1", self.target))
            with upstream:
                if self.says:
                    upstream.sendall(forwarded(client, self.says))
                both_ways(client, upstream)


def head(connection: socket.socket) -> bytes:
    """What a connection brings up to the end of a head, at least."""
    held = b""
    while b"\r\n\r\n" not in held and (data := connection.recv(65536)):
        held += data
    return held


def forwarded(client: socket.socket, says: Callable[[str], str]) -> bytes:
    lines, _, rest = head(client).partition(b"\r\n\r\n")
    first, *fields = lines.decode("latin-1").split("\r\n")
    name = "x-forwarded-for:"
    came = [field[len(name) :].strip() for field in fields if field.lower().startswith(name)]
    others = [field for field in fields if not field.lower().startswith(name)]
    if said := says(", ".join(came)):
        others.append(f"X-Forwarded-For: {said}")
    return "\r\n".join([first, *others]).encode("latin-1") + b"\r\n\r\n" + rest


class Tunnel(Acceptor):
    """A proxy that leads whoever asks for a host on any port to one here, and keeps what was asked for."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.asked: list[str] = []
        super().__init__(0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def environment(self, directory: Path) -> dict[str, str]:
        """What has a program come this way, and believe the certificate of that directory."""
        return {
            **os.environ,
            "SSL_CERT_FILE": str(directory / "tls.crt"),
            "https_proxy": self.url,
            "no_proxy": "",
            "NO_PROXY": "",
        }

    def serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self.asked.append(head(connection).split()[1].decode())
            with socket.create_connection(("127.0.0.1", self.target)) as upstream:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                both_ways(connection, upstream)


def both_ways(client: socket.socket, upstream: socket.socket) -> None:
    back = threading.Thread(target=pump, args=(upstream, client), daemon=True)
    back.start()
    pump(client, upstream)
    back.join()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (sink, source):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def stop_listening(listener: socket.socket) -> None:
    """Closed alone, it would live on for as long as a thread waits at it."""
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
