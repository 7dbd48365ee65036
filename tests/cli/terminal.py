"""A pseudo-terminal with a program on it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

TAKE_TERMINAL = (
    "import fcntl, os, signal, sys, termios\n"
    "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)
"""Makes standard input the controlling terminal, so that Ctrl-C typed there is a signal."""


class Terminal:
    """A program whose standard streams are a terminal, and its controlling one.

    Attributes:
        seen: all that it wrote.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path | None = None) -> None:
        self.seen = ""
        self._from = 0
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, "TERM": "xterm"},
            cwd=folder,
            start_new_session=True,
        )
        os.close(slave)

    def wait_for(self, text: str) -> None:
        """Read until it has written ``text`` since the last time something was typed."""
        deadline = time.monotonic() + 60
        while text not in self.seen[self._from :]:
            assert time.monotonic() < deadline, self.seen
            assert self._read(0.1) or text in self.seen[self._from :], self.seen

    def type(self, text: str) -> None:
        """Type ``text``."""
        self._from = len(self.seen)
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + 60
        while self._read(0.1) and (self.process.poll() is None or self._waiting()):
            assert time.monotonic() < deadline, self.seen
        code = self.process.wait(60)
        os.close(self._master)
        return code

    def _waiting(self) -> bool:
        return bool(select.select([self._master], [], [], 0.1)[0])

    def _read(self, seconds: float) -> bool:
        """Read what is there; false at the end of the terminal."""
        if not select.select([self._master], [], [], seconds)[0]:
            return True
        try:
            self.seen += os.read(self._master, 65536).decode(errors="replace")
        except OSError:
            return False  # that is how the end of a terminal looks
        return True
