"""Clients that ask again and again over TLS, by HTTP/1.1 and by HTTP/2, and write down what fails.

    target/client/bin/python -m tests.support.secure_load PORT CERTIFICATES

CERTIFICATES is a file with every certificate that may be met. The first answer of each client is followed
by a line, the end of the input by the report. A connection that is said to end (`Connection: close`, GOAWAY)
is followed by another one.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

PATH = "/_matrix/client/versions"
# Longer than any request may wait.
PATIENCE = 60


@dataclass
class Counted:
    """What one protocol's clients have seen."""

    requests: int = 0
    connections: int = 0
    # Said to end, by the server.
    ended: int = 0
    failed: list[str] = field(default_factory=list)


STOP = threading.Event()


def context(trusted: str, protocol: str) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=trusted)
    made.set_alpn_protocols([protocol])
    return made


def connect(port: int, trusted: str, protocol: str) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection = context(trusted, protocol).wrap_socket(plain, server_hostname="localhost")
    assert connection.selected_alpn_protocol() == protocol
    return connection


def over_http1(port: int, trusted: str, counted: Counted, begun: Callable[[], None]) -> None:
    while not STOP.is_set():
        connection = http.client.HTTPConnection("localhost", port)
        with connect(port, trusted, "http/1.1") as connection.sock:
            counted.connections += 1
            while not STOP.is_set():
                connection.request("GET", PATH)
                response = connection.getresponse()
                body = json.loads(response.read())
                assert response.status == 200, (response.status, body)
                assert "versions" in body
                counted.requests += 1
                begun()
                if response.getheader("Connection") == "close":
                    counted.ended += 1
                    break


def over_http2(port: int, trusted: str, counted: Counted, begun: Callable[[], None]) -> None:
    """curl's, since Python's h2 understands nothing that comes after a GOAWAY."""
    while not STOP.is_set():
        # One connection, as long as it is not said to end.
        target = f"https://localhost:{port}{PATH}?[1-200]"
        written = "%{http_version} %{http_code} %{num_connects}\n"
        command = ["curl", "--silent", "--show-error", "--http2", "--cacert", trusted, "-w", written]
        done = subprocess.run(
            [*command, "-o", "/dev/null", target], capture_output=True, text=True, timeout=PATIENCE * 3
        )
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            protocol, status, connects = line.split()
            assert (protocol, status) == ("2", "200"), line
            counted.requests += 1
            counted.connections += int(connects)
            counted.ended += int(connects)
        # The first one of each run is curl's own wish.
        counted.ended -= 1
        begun()


class Client(threading.Thread):
    def __init__(self, over: Callable[..., None], port: int, trusted: str) -> None:
        super().__init__()
        self.over, self.port, self.trusted = over, port, trusted
        self.counted = Counted()
        self.has_begun = False

    def begun(self) -> None:
        if not self.has_begun:
            self.has_begun = True
            print("begun", flush=True)

    def run(self) -> None:
        while not STOP.is_set() and len(self.counted.failed) < 100:
            try:
                self.over(self.port, self.trusted, self.counted, self.begun)
            except Exception as error:
                self.counted.failed.append(repr(error))


def main() -> None:
    port, trusted = int(sys.argv[1]), sys.argv[2]
    clients = {name: Client(over, port, trusted) for name, over in PROTOCOLS.items()}
    for client in clients.values():
        client.start()
    sys.stdin.read()
    STOP.set()
    for client in clients.values():
        client.join()
    print(json.dumps({name: vars(client.counted) for name, client in clients.items()}), flush=True)


PROTOCOLS = {"HTTP/1.1": over_http1, "HTTP/2": over_http2}

if __name__ == "__main__":
    main()
