"""A process that is the supervisor's child, though the fork server made it.

The supervisor is a child subreaper: when the process in the middle ends, the kernel gives it what that one
had forked.
"""

from __future__ import annotations

import os

_MOST_BYTES = 4096


def double_fork() -> int | None:
    """The new process's pid in the server, nothing in the new process; raises OSError in the server.

    When it returns in the server, the process in the middle is gone and the new one has its new parent.
    """
    reading, writing = os.pipe()
    try:
        middle = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if middle == 0:
        # Whoever got out of here with an error would be a second server.
        try:
            if _is_new_process(writing):
                os.close(reading)
                os.write(writing, str(os.getpid()).encode())
                os.close(writing)
                return None
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(writing)
    os.waitpid(middle, 0)
    with open(reading, "rb") as answer:
        text = answer.read(_MOST_BYTES).decode()
    if text.isdecimal():
        return int(text)
    raise OSError(text or "the new process ended before it began")


def _is_new_process(writing: int) -> bool:
    """Forks in the process in the middle, which tells of a failure and has nothing else to do."""
    try:
        return os.fork() == 0
    except OSError as error:
        os.write(writing, str(error).encode())
        return False
