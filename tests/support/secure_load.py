"""Clients that ask again and again over TLS, by HTTP/1.1 and by HTTP/2, and write down what fails.

    target/client/bin/python -m tests.support.secure_load PORT CERTIFICATES

CERTIFICATES is a file with every certificate that may be met. The first answer of each client is followed
by a line, the end of the input by the report. A connection that is said to end (`Connection: close`, GOAWAY)
is followed by another one; what HTTP/2 says was not taken up is asked again, as any client does.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions

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
    # Asked again on another connection, since they were not taken up.
    untaken: int = 0
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


class Http2:
    """One connection, with one request after the other."""

    def __init__(self, port: int, trusted: str) -> None:
        self.socket = connect(port, trusted, "h2")
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.flush()
        # The last request that is answered, once that is known.
        self.last: int | None = None

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def ask(self) -> bool:
        """False if the request was not taken up."""
        try:
            stream = self.h2.get_next_available_stream_id()
            fields = {":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": PATH}
            self.h2.send_headers(stream, list(fields.items()), end_stream=True)
        except h2.exceptions.ProtocolError:
            # GOAWAY has come.
            return False
        status, body, over = "", b"", False
        with contextlib.suppress(BrokenPipeError):
            self.flush()
        while not over:
            if self.last is not None and stream > self.last:
                return False
            for event in self.receive():
                match event:
                    case h2.events.ConnectionTerminated():
                        assert event.error_code == 0, event
                        self.last = event.last_stream_id
                    case h2.events.ResponseReceived(stream_id=id) if id == stream:
                        status = dict(event.headers)[":status"]
                    case h2.events.DataReceived(stream_id=id) if id == stream:
                        body += event.data
                        self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
                    case h2.events.StreamEnded(stream_id=id) if id == stream:
                        over = True
                    case h2.events.StreamReset(stream_id=id) if id == stream:
                        raise AssertionError(event)
            with contextlib.suppress(BrokenPipeError):
                self.flush()
        assert status == "200", (status, body)
        assert "versions" in json.loads(body)
        return True

    def receive(self) -> list[h2.events.Event]:
        data = self.socket.recv(65_536)
        assert data, "the connection ended before the answer"
        events: list[h2.events.Event] = self.h2.receive_data(data)
        return events


def over_http2(port: int, trusted: str, counted: Counted, begun: Callable[[], None]) -> None:
    while not STOP.is_set():
        connection = Http2(port, trusted)
        with connection.socket:
            counted.connections += 1
            while not STOP.is_set() and connection.last is None:
                if connection.ask():
                    counted.requests += 1
                    begun()
                else:
                    counted.untaken += 1
                    break
            counted.ended += connection.last is not None


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
