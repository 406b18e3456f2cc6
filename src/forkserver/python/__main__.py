"""Starts Synapse's processes for synvisor: `server` forks them, `child` is one of them.

    python -I -B DIRECTORY server --supervisor-uid UID [--padding TEXT]
    python -I -B DIRECTORY child JSON
    python -I -B DIRECTORY check FILE…

`check` has Synapse read configuration files that nobody runs with yet. The server finds its listening socket
at descriptor 3. A child finds the lock there and its listeners above it, in the order in which JSON
(protocol.Process) names them. The padding says nothing: it is room for a forked process's title.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from synvisor import child, configuration, server

FIRST_DESCRIPTOR = 3


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """What the command line asks for; exits with 2 and a sentence where it asks for nothing known."""
    parser = argparse.ArgumentParser(prog="synvisor's bootstrap of Synapse")
    roles = parser.add_subparsers(dest="role", required=True)
    forks = roles.add_parser("server")
    forks.add_argument("--supervisor-uid", type=int, required=True)
    forks.add_argument("--padding")
    roles.add_parser("child").add_argument("process")
    roles.add_parser("check").add_argument("files", nargs="+")
    return parser.parse_args(argv)


def main() -> None:
    """Returns when the app's `main` does: the end of a process must be that of a plainly started one."""
    chosen = arguments(sys.argv[1:])
    # Our directory was put first, and no module of Synapse's or a user's may be looked for in it.
    del sys.path[0]
    if chosen.role == "server":
        child.become(server.serve(FIRST_DESCRIPTOR, chosen.supervisor_uid))
    elif chosen.role == "check":
        child.find_own_modules()
        configuration.check(chosen.files)
    else:
        child.start(chosen.process, FIRST_DESCRIPTOR)


main()
