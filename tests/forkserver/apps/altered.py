"""Runs the bootstrap with one thing in it or in Twisted changed, to see that it notices."""

from __future__ import annotations

import runpy
import sys
from typing import Any


def nothing(*arguments: Any, **options: Any) -> None:
    """In place of what is left out."""


def alter(what: str) -> None:
    if what == "twisted":
        from twisted.web.http import HTTPChannel

        del HTTPChannel.checkPersistence
    elif what == "signature":
        from twisted.internet import unix

        unix.Port.__init__ = lambda self, path: None  # type: ignore[method-assign,misc,assignment]
    elif what == "thread":
        import threading

        threading.Thread(target=threading.Event().wait, daemon=True).start()
    elif what == "import":
        sys.modules["synapse.app.homeserver"] = None  # type: ignore[assignment]
    elif what == "descriptors":
        from synvisor import linux

        linux.close_all_but = nothing
    elif what == "reactor":
        from synvisor import twisted_reactor

        twisted_reactor.close = twisted_reactor.renew = nothing
    elif what == "randomness":
        import ssl

        ssl.RAND_bytes = bytes
    elif what == "notify":
        from synvisor import child

        child.take_place = nothing


if __name__ == "__main__":
    bootstrap, alteration, *rest = sys.argv[1:]
    sys.path.insert(0, bootstrap)
    alter(alteration)
    sys.argv[1:] = rest
    # The bootstrap takes the first entry off the path, which a directory that is run puts there.
    runpy.run_path(bootstrap, run_name="__main__")
