"""The log files of commands and of tasks, and the bundle of the former that a user can mail.

Each command writes a file of its own, of bounded size, that only its user can read; the newest ones are kept. Secrets
are taken out as records are formatted, whatever logger they come from, and once more on the way into a bundle.
What tasks wrote is kept beside them, word for word, until newer logs of tasks take the room; it is never bundled.
"""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import re
import stat
import sys
import sysconfig
import tarfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import attrs

from medperf_core.errors import UsageError
from medperf_core.site.atomic import write_atomically
from medperf_core.site.credentials import CredentialStore
from medperf_core.site.home import Home
from medperf_core.site.redact import Redactor

KEPT_FILES = 50
FILE_LIMIT = 5 << 20
"""Bytes after which a command's log is rotated; one older part is kept."""
TASKS = "tasks"
"""Folder of the logs of tasks, in that of the commands' logs."""
KEPT_TASK_FILES = 200
KEPT_TASK_BYTES = 1 << 30
"""Of all logs of tasks together."""

logger = logging.getLogger(__name__)
_NAME = re.compile(r"medperf-\d{8}T\d{12}Z-\d{1,10}\.log(\.1)?")
_TASK_NAME = re.compile(r"(?P<task>[A-Za-z_][A-Za-z0-9_.-]{0,63})-[0-9a-f]{12}\.log")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class RedactingFormatter(logging.Formatter):
    """Formats records of any logger without secrets and control characters; tracebacks too."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        try:
            text = super().format(record)
        except Exception as error:  # somebody else's message that does not fit its arguments is still worth keeping
            # Without the arguments: apart from their message they would not be known for secrets.
            text = f"{record.levelname} {record.name}: {record.msg!r} (arguments left out: {type(error).__name__})"
        text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", self._redact(text))
        return text.replace("\n", "\n    ")  # a line that begins at the margin is a record of its own


class _PrivateFile(RotatingFileHandler):
    def _open(self) -> io.TextIOWrapper:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.fdopen(os.open(self.baseFilename, flags, 0o600), "a", encoding="utf-8", errors="backslashreplace")

    def close(self) -> None:
        """Let go of the file, also if what is still unwritten cannot be written."""
        try:
            super().close()
        except OSError:
            self.stream = None  # closing it once more would try to write again
            logging.Handler.close(self)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: a full disk must not end the command, and logging's own words would show the arguments."""


class CommandLog:
    """The log of one command. As a context manager it listens to all loggers of the process while it is open.

    Args:
        home: where the file is made.
        redact: takes out secrets; learns all stored credentials here, and later ones from whoever stores them.
        level: the least that is written: debug, info, warning or error.
        command: words of the command line, for the first line of the file.
    """

    def __init__(self, home: Home, redact: Redactor, level: str = "info", command: tuple[str, ...] = ()) -> None:
        CredentialStore(home, redact.add).register_all()
        self._folder = home.logs_dir
        self._command = command
        self._level = getattr(logging, level.upper())
        self.path = self._folder / f"medperf-{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z-{os.getpid()}.log"
        self._handler = _PrivateFile(self.path, maxBytes=FILE_LIMIT, backupCount=1, delay=True)
        self._handler.setLevel(self._level)
        self._handler.setFormatter(RedactingFormatter(redact))
        self._level_before = logging.NOTSET

    def __enter__(self) -> Self:
        root = logging.getLogger()
        self._level_before = root.level
        root.setLevel(min(root.level or logging.WARNING, self._level))
        root.addHandler(self._handler)
        self._prune()
        logger.info("%s", " ".join(f"{name} {version}" for name, version in versions().items()))
        if self._command:
            logger.info("command: %s", list(self._command))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        root = logging.getLogger()
        root.removeHandler(self._handler)
        root.setLevel(self._level_before)
        self._handler.close()

    def unexpected(self, error: BaseException) -> None:
        """Write an error with its traceback."""
        logger.error("unexpected error", exc_info=(type(error), error, error.__traceback__))

    def _prune(self) -> None:
        files = log_files(self._folder)
        for file in files[KEPT_FILES - 1 :] if self.path not in files else files[KEPT_FILES:]:
            file.unlink(missing_ok=True)
        total = 0
        for number, log in enumerate(task_logs(self._folder), 1):
            total += log.size
            if number > KEPT_TASK_FILES or total > KEPT_TASK_BYTES:
                log.path.unlink(missing_ok=True)


@attrs.frozen
class TaskLogFile:
    """The log of one run of a task.

    Attributes:
        task: its name.
        changed: when its last line came, in seconds since 1970.
        size: bytes.
    """

    path: Path
    task: str
    changed: float
    size: int


def task_logs(folder: Path) -> list[TaskLogFile]:
    """The logs of tasks that lie below the folder of the commands' logs, newest first; nothing else."""
    found = []
    try:
        files = list((folder / TASKS).iterdir())
    except FileNotFoundError:
        return []  # no task ran yet
    for file in files:
        match = _TASK_NAME.fullmatch(file.name)
        try:
            status = file.lstat()
        except FileNotFoundError:
            continue  # pruned by another command
        if match and stat.S_ISREG(status.st_mode):
            found.append(TaskLogFile(file, match["task"], status.st_mtime, status.st_size))
    return sorted(found, key=lambda log: (log.changed, log.path.name), reverse=True)


def log_files(folder: Path) -> list[Path]:
    """The log files of commands in a folder, newest first; nothing else that lies there."""
    found = []
    for file in folder.iterdir():
        try:
            if _NAME.fullmatch(file.name) and stat.S_ISREG(file.lstat().st_mode):
                found.append(file)
        except FileNotFoundError:
            continue  # pruned by another command
    return sorted(found, key=lambda file: (file.name.removesuffix(".1"), not file.name.endswith(".1")), reverse=True)


def versions() -> dict[str, str]:
    """Versions of this program's distributions and of what they stand on; no name of this machine."""
    ours = {
        name: item.version
        for item in metadata.distributions()
        if (name := (item.metadata["Name"] or "").lower()).startswith("medperf")
    }
    return {
        **dict(sorted(ours.items())),
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.release()}-{platform.machine()}",
    }


def bundle(home: Home, target: Path, redact: Redactor, about: Mapping[str, str] | None = None) -> list[str]:
    """Pack the logs of commands into a file to mail: ``versions.json`` and the logs, without secrets and without
    paths of this machine but those of programs. No data, records, submissions, credentials or output of containers
    go in.

    Args:
        target: a new ``.tar.gz`` file; only its owner can read it.
        about: more for ``versions.json``, such as the engine's version.

    Returns:
        What is inside, by name.

    Raises:
        UsageError: there is such a file, or it cannot be written.
    """
    if os.path.lexists(target):
        raise UsageError(f"{target} exists already.", hint="Name a new file.")
    CredentialStore(home, redact.add).register_all(keyring=True)
    clean = PathHider(home, redact)
    names = []

    def write(stream: BinaryIO) -> None:
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            about_all = {key: clean(str(value)) for key, value in {**versions(), **(about or {})}.items()}
            names.append(_add(tar, "versions.json", json.dumps(about_all, indent=2) + "\n"))
            for file in log_files(home.logs_dir):
                try:
                    text = file.read_text("utf-8", "backslashreplace")
                except FileNotFoundError:
                    continue
                names.append(_add(tar, f"logs/{file.name}", clean(text)))

    try:
        write_atomically(target, write, mode=0o600)
    except OSError as error:
        raise UsageError(
            f"{target} cannot be written: {error.strerror}.", hint="Name a file in a folder that you can write."
        ) from error
    return names


def _add(tar: tarfile.TarFile, name: str, text: str) -> str:
    content = text.encode("utf-8", "backslashreplace")
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o600, int(datetime.now(UTC).timestamp())
    tar.addfile(member, io.BytesIO(content))
    return name


class PathHider:
    """Takes secrets and paths out of text. Paths of the home folder and of programs are shown, shortened; of others
    the ending is left, because folders and files are named after people and studies."""

    _PATH = re.compile(
        r"""(?P<quote>["'])(?P<quoted>(?:file:/{0,2})?/[^"'\r\n]+)(?P=quote)"""
        r"""|(?<![\w/.:~])(?P<bare>~?/(?!/)[^\s"']*(?:[ ][^\s"'/=:]+/[^\s"']*)*)"""
        r"""|(?P<after>(?<=\w:)/(?!/)[^\s"']+|(?<=file:)/{2,3}[^\s"']+)"""
    )
    _ENDING = re.compile(r"(?:\.[A-Za-z0-9]{1,5}){1,2}$")

    def __init__(self, home: Home, redact: Redactor) -> None:
        self._redact = redact
        self._home = str(home.path)
        paths = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), "/usr", "/lib", "/proc", "/sys", "/dev"}
        self._programs = tuple(sorted(paths | {str(Path(__file__).parents[2])}, key=len, reverse=True))

    def __call__(self, text: str) -> str:
        return self._PATH.sub(self._hidden, self._redact(text))

    def _hidden(self, match: re.Match[str]) -> str:
        path = match["quoted"] or match["bare"] or match["after"]
        quote = match["quote"] or ""
        if ".." not in path:
            if path == self._home or path.startswith(f"{self._home}/"):
                return f"{quote}MEDPERF_HOME{path.removeprefix(self._home)}{quote}"
            if path.startswith(tuple(f"{program}/" for program in self._programs)):
                return match[0].replace(str(Path.home()), "~")
        ending = self._ENDING.search(path)
        return f"{quote}[path]{ending[0] if ending else ''}{quote}"
