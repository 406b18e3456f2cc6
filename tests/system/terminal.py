"""A shell on a terminal of a machine, and somebody who types."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import termios
import time
from collections.abc import Mapping

from tests.support.deployment import wait_for

from .machine import ENVIRONMENT, Machine

# Stands for itself only when the shell prints it, and not when the line that sets it is typed.
PROMPT = "what next> "


class Terminal:
    """A shell of root's in a machine."""

    def __init__(self, machine: Machine, environment: dict[str, str]) -> None:
        self.unread = ""
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            command = machine.entering("bash", "--norc", "--noprofile")
            os.execvpe(command[0], command, ENVIRONMENT | environment | {"PS1": PROMPT})
        self.until(PROMPT)

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode() + b"\n")

    def type_unseen(self, text: str) -> None:
        """Types once the terminal does not show it any more."""

        def hidden() -> bool | None:
            return None if termios.tcgetattr(self.terminal)[3] & termios.ECHO else True

        wait_for("the terminal hides what is typed", hidden)
        self.type(text)

    def until(self, *expected: str, seconds: float = 120) -> tuple[str, str]:
        """What is shown until one of these is, and which one that is."""
        deadline = time.monotonic() + seconds
        pattern = re.compile("|".join(re.escape(text) for text in expected))
        while not (found := pattern.search(self.unread)):
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self.terminal], [], [], max(left, 0))
            assert readable, f"none of {expected} is shown:\n{self.unread}"
            self.unread += os.read(self.terminal, 65536).decode(errors="replace").replace("\r\n", "\n")
        shown, self.unread = self.unread[: found.end()], self.unread[found.end() :]
        return shown, found[0]

    def run(self, command: str, answers: Mapping[str, str | list[str]], seconds: float = 120) -> str:
        """What a command shows that succeeds and is answered whenever it asks one of these questions; where
        there are several answers, each once."""
        self.type(command)
        # What is typed is shown first.
        self.until("\n")
        said = ""
        while True:
            shown, last = self.until(PROMPT, *answers, seconds=seconds)
            said += shown
            if last == PROMPT:
                break
            answer = answers[last]
            answer = answer.pop(0) if isinstance(answer, list) else answer
            if "password" in last or "Once more" in last:
                self.type_unseen(answer)
            else:
                self.type(answer)
        self.type("echo code $?")
        code, _ = self.until(PROMPT)
        assert "\ncode 0\n" in f"\n{code}", f"{command}\n{said}\n{code}"
        return said

    def close(self) -> None:
        os.kill(self.pid, signal.SIGHUP)
        os.close(self.terminal)
        os.waitpid(self.pid, 0)
