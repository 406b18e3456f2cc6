"""What Linux offers and Python does not: prctl, the title of a process, who is at the other end of a
socket.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_NAME_BYTES = 15
_ARG_START = 48 - 3
_HIGHEST_DESCRIPTOR = 2**31 - 1

_libc = ctypes.CDLL(None, use_errno=True)


class Peer(NamedTuple):
    """Whoever called connect() or listen(), as the kernel noted it then."""

    pid: int
    uid: int
    gid: int


def prctl(option: int, argument: int | bytes) -> None:
    """prctl(2) with one argument; raises OSError."""
    value = ctypes.c_char_p(argument) if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    unused = ctypes.c_ulong(0)
    if _libc.prctl(option, value, unused, unused, unused) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def die_with_parent(number: signal.Signals) -> None:
    """Asks for a signal when the parent ends; a parent that is gone already must be looked for afterwards."""
    prctl(_PR_SET_PDEATHSIG, number)


def peer(connection: socket.socket) -> Peer:
    """Who is at the other end of a Unix socket (SO_PEERCRED)."""
    layout = struct.Struct("=iII")
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    return Peer(*layout.unpack(data))


def close_all_but(kept: Collection[int]) -> None:
    """Closes every descriptor that is not named."""
    edges = [-1, *sorted(kept), _HIGHEST_DESCRIPTOR]
    for below, above in zip(edges, edges[1:], strict=False):
        # CPython takes an empty range from 0 for everything (`Python/fileutils.c` of 3.11).
        if below + 1 < above:
            os.closerange(below + 1, above)


def set_title(name: str, title: str) -> None:
    """What `ps` shows: the short name (comm), and the command line as far as there is room for it.

    The command line is the memory in which the kernel put the arguments at exec; it is overwritten in place,
    and what does not fit is cut. It is there for people: where it cannot be found, nothing is changed.
    """
    prctl(_PR_SET_NAME, name.encode()[:_NAME_BYTES])
    # The second field is in brackets and may hold anything, so that counting starts after its last bracket.
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_START + 1])
    if not start or Path("/proc/self/cmdline").read_bytes() != ctypes.string_at(start, end - start):
        return
    # A last byte that is not zero would make the kernel read on into the environment (fs/proc/base.c).
    text = title.encode()[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
