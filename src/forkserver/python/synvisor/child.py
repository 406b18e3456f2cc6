"""A process of Synapse, from the moment at which it is one until its app's `main` has the word."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from . import (
    graceful_stop,
    inherited,
    linux,
    readiness,
    recognition,
    replication_pool,
    twisted_reactor,
)
from .protocol import BEFORE_LISTENERS, Fork, Malformed, Process, decode, decode_object

NOT_RECOGNISED = 70
"""Exit status (EX_SOFTWARE) that asks for a plain start of Synapse instead."""

SHOW_STACKS = signal.SIGUSR2
STDERR = 2


@dataclass(frozen=True)
class Forked:
    """What a forked process brings along from the fork server."""

    request: Fork
    descriptors: Sequence[int]

    @property
    def listeners(self) -> Sequence[int]:
        return self.descriptors[BEFORE_LISTENERS:]


def become(forked: Forked) -> None:
    """Makes the process that was asked for out of a forked copy of the server."""
    output, go, lock = forked.descriptors[:BEFORE_LISTENERS]
    let_go(output, {go, lock, *forked.listeners})
    os.set_blocking(go, True)
    if not os.read(go, 1):
        # The supervisor is gone, and with it everyone who could want this process.
        os._exit(0)
    os.close(go)
    os.setsid()
    process = forked.request.process
    take_place(process)
    twisted_reactor.renew(twisted_reactor.global_reactor())
    run(process, lock, forked.listeners)


def start(text: str, first_descriptor: int) -> None:
    """The same in a process that was started for it: `text` is the Process, environment and place are its
    own.
    """
    try:
        process = decode(Process, decode_object(text))
    except Malformed as error:
        sys.exit(f"synvisor's bootstrap was called with a process that it cannot read: {error}")
    # The environment in the argument is not read here; a supervisor does well to leave it empty.
    show_name(process)
    default_signals()
    lock, above = first_descriptor, first_descriptor + 1
    run_checked(process, lock, range(above, above + len(process.listeners)))


def run_checked(process: Process, lock: int, listeners: Sequence[int]) -> None:
    """Runs the app, or exits with NOT_RECOGNISED and a line for each problem."""
    if problems := recognition.problems():
        sys.stderr.write("".join(f"{problem}\n" for problem in problems))
        sys.exit(NOT_RECOGNISED)
    run(process, lock, listeners)


def run(process: Process, lock: int, listeners: Sequence[int]) -> None:
    """Changes what is to be changed in Synapse and calls the app as `python -m` would."""
    for descriptor in (lock, *listeners):
        os.set_inheritable(descriptor, False)
    show_stacks_on_request()
    reactor = twisted_reactor.global_reactor()
    inherited.adopt(reactor, dict(zip(process.listeners, listeners, strict=True)))
    if "child" not in process.without:
        graceful_stop.install(reactor, process.stop_deadline_ms / 1000)
    if "pool" not in process.without:
        replication_pool.make_plain()
    if process.redis:
        readiness.await_replication()
    find_own_modules()
    sys.argv[:] = [process.app, *process.arguments]
    importlib.import_module(process.app).main()
    end()


def find_own_modules() -> None:
    """Has a user's own modules found; isolated mode, in which we run, leaves the variable unread."""
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def show_stacks_on_request() -> None:
    """Has SIGUSR2 write the stack of every thread to the unit's log.

    The handler is C that reads the interpreter's memory, so that it also works where Python is stuck: in a
    loop, in a call that does not return, or waiting for its lock.
    """
    # Not sys.stderr, which Synapse replaces (`synapse/app/_base.py`, redirect_stdio_to_logs).
    faulthandler.register(SHOW_STACKS, file=STDERR, all_threads=True, chain=False)


def end() -> None:
    """Ends the process as Python does, but does not take the interpreter apart.

    That would write to every object, and so copy every page that the process shares with its siblings.
    """
    # CPython's own steps before it does so (`Py_FinalizeEx`, 3.10 to 3.14): threads, atexit, streams.
    steps: list[Any] = [getattr(threading, "_shutdown", None), getattr(atexit, "_run_exitfuncs", None)]
    if None in steps:
        return
    for step in (*steps, sys.stdout.flush, sys.stderr.flush):
        step()
    os._exit(0)


def let_go(output: int, kept: Collection[int]) -> None:
    """Parts with everything of the fork server's: streams, descriptors, signal handling.

    A descriptor that stayed open would keep the server's connection up after its death, or its socket in use.
    """
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    twisted_reactor.close(twisted_reactor.global_reactor())
    linux.close_all_but({0, 1, 2, *kept})
    default_signals()


def default_signals() -> None:
    """The dispositions with which Python begins: those of exec, and the three that it changes itself."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # The C library keeps the first realtime signals for itself.
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def take_place(process: Process) -> None:
    """Environment, directory, masks and title: what exec would have been given."""
    # In place, since Synapse keeps a reference to the mapping (`synapse/config/cache.py`, 1.163.2).
    os.environ.clear()
    os.environ.update(process.environment)
    time.tzset()
    if "PYTHONUNBUFFERED" in os.environ:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(process.directory)
    os.umask(process.umask)
    # Less nice than the supervisor it may not become.
    if os.getpriority(os.PRIO_PROCESS, 0) < process.nice:
        os.setpriority(os.PRIO_PROCESS, 0, process.nice)
    # Read from the environment when it was imported, which was long ago.
    base: Any = importlib.import_module("synapse.app._base")
    base.sdnotify_sockaddr = process.environment.get("NOTIFY_SOCKET")
    show_name(process)


def show_name(process: Process) -> None:
    """What `ps` shows: not the fork server's command line, and not one that may hold a secret."""
    title = f"synapse: {process.unit} {process.app} {' '.join(process.arguments)}"
    linux.set_title(process.unit, title)
