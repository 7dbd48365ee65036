"""What holds for every target: only the program's own errors, nothing written elsewhere, no connection, bounded time
and memory."""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from medperf_core.errors import MedperfError

from fuzz.target import Target

CPU_SECONDS = 5.0
MEMORY_KIB = 256 << 10
EXAMPLES = 3
"""Inputs that are kept of one finding."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.mkdir": (0, 2),
    "os.remove": (0, 1),
    "os.rmdir": (0, 1),
    "os.chmod": (0, 2),
    "os.chown": (0, 3),
    "os.truncate": (0, None),
    "os.utime": (0, 3),
    "os.symlink": (1, 2),
    "os.link": (1, 3),
    "os.rename": (1, 3),
}
"""For each event of a change: where its arguments have the path and the folder that it is relative to."""
_NEVER = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "os.forkpty", "ctypes.dlopen")
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind")


class Broken(BaseException):
    """A promise was broken in a way that the parser must not be able to catch."""


class Guard:
    """Runs inputs of one target and keeps what it finds.

    Args:
        target: what is fuzzed.
        folder: an empty folder for the target.
        findings: where findings are kept, one ``.txt`` with the traceback and some ``.bin`` with inputs for each.
    """

    def __init__(self, target: Target, folder: Path, findings: Path) -> None:
        self.target = target
        self.folder = folder.resolve()
        self.findings = findings
        self.counts: dict[str, int] = {}
        self._watching = False
        self._broken: list[str] = []
        _watched.append(self)
        if len(_watched) == 1:
            sys.dont_write_bytecode = True
            sys.addaudithook(_hook)  # stays for the life of the process

    def __call__(self, data: bytes) -> None:
        """Give the target one input."""
        self._broken = []
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        self._watching = True
        try:
            self.target.run(data, self.folder)
        except MedperfError:
            pass
        except (Broken, Exception) as error:
            self._watching = False
            self._found(f"{type(error).__name__} {_place(error)}", traceback.format_exc(), data)
        finally:
            self._watching = False
        seconds = time.process_time() - started
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        for words in self._broken:
            self._found(f"Broken {words.partition(':')[0]}", words, data)
        if seconds > CPU_SECONDS:
            self._found("slow", f"{seconds:.1f} s of CPU time", data)
        if grown > MEMORY_KIB:
            self._found("memory", f"{grown >> 10} MiB more", data)

    def _found(self, what: str, details: str, data: bytes) -> None:
        count = self.counts[what] = self.counts.get(what, 0) + 1
        if count > EXAMPLES:
            return
        name = hashlib.sha256(what.encode()).hexdigest()[:12]
        self.findings.mkdir(parents=True, exist_ok=True)
        (self.findings / f"{name}-{count}.bin").write_bytes(data)
        if count == 1:
            (self.findings / f"{name}.txt").write_text(f"{what}\n\n{details}\n", encoding="utf-8", errors="replace")
            print(f"FINDING {self.target.name}: {what}", file=sys.stderr, flush=True)

    def on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Look at what the interpreter is about to do for the target."""
        if not self._watching:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES and not isinstance(path, int):
                self._check(event, path, None, follow=not flags & os.O_NOFOLLOW)
        elif event in _CHANGES:
            at, relative = _CHANGES[event]
            folder = arguments[relative] if relative is not None and len(arguments) > relative else None
            if not isinstance(arguments[at], int):
                self._check(event, arguments[at], folder, follow=False)
        elif event in _NETWORK:
            if not self.target.network:
                self._stop(f"{event}: {arguments[-1]!r}")
            raise OSError(111, "no network while fuzzing")
        elif event in _NEVER:
            self._stop(f"{event}: {arguments!r}")

    def _check(self, event: str, path: Any, folder: Any, *, follow: bool) -> None:
        self._watching = False
        try:
            text = os.fsdecode(path)
            if isinstance(folder, int) and folder >= 0:
                text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)  # noqa: PTH115, PTH118
            if text in ("/dev/null", os.devnull):
                return
            place = os.path.realpath(text) if follow else os.path.realpath(os.path.dirname(text) or ".")  # noqa: PTH120
            inside = place == str(self.folder) or place.startswith(f"{self.folder}{os.sep}")
        except ValueError:
            return  # a NUL in the name: the call fails
        finally:
            self._watching = True
        if not inside:
            self._stop(f"{event}: {text!r}")

    def _stop(self, words: str) -> None:
        self._broken.append(words)
        raise Broken(words)


_watched: list[Guard] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    _watched[-1].on_event(event, arguments)


def _place(error: BaseException) -> str:
    """The innermost line of the program's own code that the error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "medperf_" in frame.filename] or frames[-1:]
    return f"in {own[-1].filename.rpartition('medperf_')[2]}:{own[-1].name}" if own else ""
