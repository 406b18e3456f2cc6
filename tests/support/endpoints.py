"""What a homeserver talks to: a push gateway, an application service, a TLS front for federation."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import ssl
import subprocess
import threading
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


class TlsFront:
    """Takes TLS off and passes the bytes on: what a front proxy does for federation."""

    def __init__(self, port: int, target: int, directory: Path) -> None:
        key, certificate = directory / "tls.key", directory / "tls.crt"
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ]
        subprocess.run(
            [*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), self.context.wrap_socket(connection, server_side=True) as client:
            upstream = socket.create_connection(("127.0.0.1", self.target))
            with upstream:
                back = threading.Thread(target=pump, args=(upstream, client), daemon=True)
                back.start()
                pump(client, upstream)
                back.join()

    def close(self) -> None:
        self.listener.close()


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for end in (sink, source):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
