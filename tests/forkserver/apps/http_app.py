"""A small web server on the Unix socket that its first argument names; the others are switches for a test."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from typing import Any

from synvisor import graceful_stop
from twisted.internet import reactor as the_reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

BIG = 16 << 20
held: list[Any] = []
reactor: Any = the_reactor


def say(text: str) -> None:
    print(text, flush=True)


class Root(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> Any:
        path = request.path.decode()
        if path == "/hold":
            held.append(request)
            say(f"holding {len(held)}")
            return NOT_DONE_YET
        if path == "/busy":
            # The reactor stands still, as it does in a long computation, until a file appears.
            say("busy")
            while not os.path.exists(request.args[b"until"][0]):
                time.sleep(0.005)
        if path == "/big":
            say("big")
            return b"x" * BIG
        return f"answer of {os.getpid()}".encode()

    def render_POST(self, request: Any) -> Any:
        return request.content.read()


def release() -> None:
    for request in held:
        request.write(b"released")
        request.finish()
    held.clear()


def main() -> None:
    path, *switches = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    if "patient" in switches:
        graceful_stop.FIRST_REQUEST_GRACE = 300
    if "race" in switches:
        # What is unread is seen one moment too early, before it came.
        graceful_stop._unread = lambda connection: False
    if "before" in switches:
        say("before the reactor")
        signal.pause()
    root: Any = Root  # Twisted's constructor has no types.
    for one in [path, *(switch for switch in switches if "/" in switch)]:
        reactor.listenUNIX(one, Site(root()), 50, 0o666, True)
    signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(release))
    reactor.callWhenRunning(say, "serving")
    reactor.run()
    say("the reactor has stopped")
