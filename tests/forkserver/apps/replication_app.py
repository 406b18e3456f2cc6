"""Makes one call as one of Synapse's processes makes it to another, over the Unix socket that is named."""

from __future__ import annotations

import sys
from typing import Any

from synapse.config.workers import InstanceUnixLocationConfig
from synapse.http.replicationagent import ReplicationAgent
from twisted.internet import reactor as the_reactor
from twisted.web.client import HTTPConnectionPool, readBody

reactor: Any = the_reactor


def main() -> None:
    (path,) = sys.argv[1:]
    pool = HTTPConnectionPool(reactor)
    policy: Any = None  # Of TLS, which is not used on a Unix socket.
    places: dict[str, Any] = {"main": InstanceUnixLocationConfig(path=path)}
    agent: Any = ReplicationAgent(reactor, places, policy, pool=pool)
    called = agent.request(b"GET", b"synapse-replication://main/a")
    called.addCallback(readBody)
    called.addBoth(print)
    called.addBoth(lambda _: reactor.stop())
    reactor.run()
