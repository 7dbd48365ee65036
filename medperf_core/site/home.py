"""The home folder: where a site keeps what is its own, its layout version, locks, and room for the work in hand.

Layout (all folders 0700): ``version``, ``config.yaml``, ``credentials/``, ``cache/`` (or ``cache-place.json``, which
says where it is), ``records/``, ``outbox/``, ``audit/``, ``keys/``, ``bundles/``, ``logs/``, ``locks/``, ``temp/``
(work in hand), ``backups/`` (made before a migration).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import attrs
from filelock import FileLock, Timeout

from medperf_core.errors import ConfigurationError, UsageError
from medperf_core.plugin.processes import machine, start_time
from medperf_core.site.atomic import write_atomically
from medperf_core.site.cache_place import PLACE_FILE, USUAL, cache_folder

VERSION = 1
"""The layout that this program writes."""

Migrations = Mapping[int, Callable[[Path], None]]
"""For each older version, what turns a home of it into the next one."""

MIGRATIONS: Migrations = {}
LOCK_SECONDS = 60.0
ABANDONED_SECONDS = 7 * 24 * 3600
"""Work folders of other machines that share this home are taken for abandoned after this time."""

_FOLDERS = ("credentials", "records", "outbox", "audit", "logs", "locks", "temp")
_NOT_BACKED_UP = ("cache", "temp", "logs", "locks", "backups")
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_WORK = re.compile(r"[a-z0-9-]+\.(?P<machine>[0-9a-f]{12})\.(?P<pid>[0-9]+)\.(?P<started>[0-9]+)\.[0-9a-f]{8}")


@contextmanager
def locked(path: Path, what: str, timeout: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock file ``path`` against other processes and threads; not to be nested.

    Raises:
        ConfigurationError: another command holds it for longer than ``timeout`` seconds; ``what`` says what is locked.
            Or the disk cannot lock files.
    """
    lock = FileLock(path, timeout=timeout, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigurationError(
            f"Another medperf command has been using {what} for more than {timeout:.0f} seconds.",
            hint="Wait for it to end, then try again.",
        ) from None
    except OSError as error:
        raise cannot_lock(path, error) from error
    try:
        yield
    finally:
        lock.release()


def cannot_lock(path: Path, error: OSError) -> ConfigurationError:
    """What to say of a lock file that cannot be locked, or made, on its disk."""
    return ConfigurationError(
        f"{path} cannot be locked: {error.strerror or error}.",
        hint="Commands that run at the same time need locks. If this is a network disk, have it mounted with locks "
        "switched on; else set MEDPERF_HOME to a folder on a disk of this machine.",
    )


@attrs.frozen
class Home:
    """A home folder by its path. ``Home.open`` makes and checks it; the bare class touches nothing.

    Attributes:
        path: absolute path of the folder.
    """

    path: Path

    @classmethod
    def open(
        cls,
        path: Path | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        version: int = VERSION,
        migrations: Migrations = MIGRATIONS,
    ) -> Self:
        """Make the home if it is not there, bring it up to date, and remove what dead commands left in ``temp``.

        Args:
            path: the folder; None means the variable MEDPERF_HOME, else ``~/.medperf``.
            environment: None means this process's.
            version, migrations: the layout wanted and the ways to it.

        Raises:
            ConfigurationError: it is of a newer program, is somebody else's folder, or could not be migrated.
        """
        environment = os.environ if environment is None else environment
        chosen = path or Path(environment.get("MEDPERF_HOME") or "~/.medperf")
        home = cls(chosen.expanduser().absolute())
        try:
            home._make(version)
            home._bring_to(version, migrations)
            for folder in _FOLDERS:
                (home.path / folder).mkdir(mode=0o700, exist_ok=True)
            usual = home.path / USUAL
            if not (home.path / PLACE_FILE).exists() and not usual.is_symlink():
                usual.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"The home folder {home.path} cannot be used: {error.strerror}.",
                hint="Set MEDPERF_HOME to a folder that you can write.",
            ) from error
        home.clean_temp()
        return home

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def credentials_dir(self) -> Path:
        return self.path / "credentials"

    @property
    def cache_dir(self) -> Path:
        """Where the cache is; ConfigurationError if it was moved to a disk that is not there now."""
        return cache_folder(self.path)

    @property
    def temp_dir(self) -> Path:
        return self.path / "temp"

    @property
    def records_dir(self) -> Path:
        return self.path / "records"

    @property
    def outbox_dir(self) -> Path:
        return self.path / "outbox"

    @property
    def audit_dir(self) -> Path:
        return self.path / "audit"

    @property
    def keys_dir(self) -> Path:
        """Folder of the site's own key pair."""
        return self.path / "keys"

    @property
    def bundles_dir(self) -> Path:
        """Folder of what loaded bundles say."""
        return self.path / "bundles"

    @property
    def logs_dir(self) -> Path:
        return self.path / "logs"

    @property
    def locks(self) -> Path:
        """Folder of the lock files."""
        return self.path / "locks"

    @contextmanager
    def work_dir(self, name: str, place: Path | None = None) -> Iterator[Path]:
        """An empty folder for the work in hand; removed at the end.

        Args:
            name: a short word of lower-case letters, digits and ``-`` that says what for.
            place: the folder that it is made in; None for ``temp_dir``.
        """
        if not _SLUG.fullmatch(name):
            raise ValueError(f"not a name for a work folder: {name!r}")
        pid = os.getpid()
        # The owner stands in the name: a folder never exists without saying whose it is.
        label = f"{name}.{machine()}.{pid}.{start_time(pid)}.{secrets.token_hex(4)}"
        folder = (place or self.temp_dir) / label
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            remove_tree(folder)

    def clean_temp(self, place: Path | None = None) -> None:
        """Remove work folders whose process is gone. What cannot be removed stays."""
        now = time.time()
        for entry in (place or self.temp_dir).iterdir():
            match = _WORK.fullmatch(entry.name)
            if match is None:
                continue
            try:
                if match["machine"] == machine():
                    dead = start_time(int(match["pid"])) != int(match["started"])
                else:
                    dead = now - entry.lstat().st_mtime > ABANDONED_SECONDS
            except OSError:
                continue
            if dead:
                remove_tree(entry)

    def _make(self, version: int) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = self.path / "version"
        if file.exists():
            return
        strangers = [entry.name for entry in self.path.iterdir() if "version" not in entry.name]
        if strangers and not file.exists():  # looked at again: another command may have made the home meanwhile
            raise ConfigurationError(
                f"{self.path} is not a home folder of this program: it has no version file, but it has "
                f"{sorted(strangers)[0]}.",
                hint="Set MEDPERF_HOME to a new or empty folder.",
            )
        if not strangers:
            self.path.chmod(0o700)
            write_atomically(file, f"{version}\n", mode=0o600)

    def _found_version(self) -> int:
        text = (self.path / "version").read_text("utf-8", "replace").strip()
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise ConfigurationError(
                f"{self.path / 'version'} does not hold a version number.",
                hint="Restore the home folder from a backup, or set MEDPERF_HOME to a new one.",
            )
        return int(text)

    def _bring_to(self, version: int, migrations: Migrations) -> None:
        found = self._found_version()
        if found > version:
            raise ConfigurationError(
                f"The home folder {self.path} is of version {found}, made by a newer program; "
                f"this one knows versions up to {version}.",
                hint="Update medperf-core, or set MEDPERF_HOME to another folder.",
            )
        if found == version:
            return
        (self.path / "locks").mkdir(mode=0o700, exist_ok=True)
        with locked(self.path / "locks" / "home.lock", f"the home folder {self.path}"):
            found = self._found_version()
            if found < version:
                self._migrate(found, version, migrations)

    def _migrate(self, found: int, version: int, migrations: Migrations) -> None:
        missing = [step for step in range(found, version) if step not in migrations]
        if missing:
            raise ConfigurationError(
                f"The home folder {self.path} is of version {found}, which is too old to migrate.",
                hint="Set MEDPERF_HOME to a new folder.",
            )
        backups = self.path / "backups"
        backups.mkdir(mode=0o700, exist_ok=True)
        backup = backups / f"version-{found}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
        _copy(self.path, backup)
        try:
            for step in range(found, version):
                migrations[step](self.path)
                write_atomically(self.path / "version", f"{step + 1}\n", mode=0o600)
        except Exception as error:
            _restore(backup, self.path)
            raise ConfigurationError(
                f"The home folder {self.path} could not be migrated from version {found} to {version} ({error}); "
                "it is as it was before.",
                hint=f"A copy is in {backup}. Use the older program or report this error.",
            ) from error


def _copy(home: Path, backup: Path) -> None:
    def skip(folder: str, names: list[str]) -> set[str]:
        return set(names) & set(_NOT_BACKED_UP) if Path(folder) == home else set()

    shutil.copytree(home, backup, ignore=skip, symlinks=True)
    backup.chmod(0o700)


def _restore(backup: Path, home: Path) -> None:
    for entry in home.iterdir():
        if entry.name not in _NOT_BACKED_UP and not (backup / entry.name).exists():
            remove_tree(entry)
    # The version comes last: a kill before it leaves the mark of the step that was reached.
    for entry in sorted(backup.iterdir(), key=lambda item: item.name == "version"):
        remove_tree(home / entry.name)
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, home / entry.name, symlinks=True)
        else:
            shutil.copy2(entry, home / entry.name, follow_symlinks=False)


def remove_tree(path: Path) -> None:
    """Remove a file or folder, also one whose folders were made read-only; what cannot be removed stays."""
    try:
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            return
        for folder, _, _ in os.walk(path):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                Path(folder).chmod(0o700)
    except OSError:
        pass  # somebody else's folder in there: remove the rest
    shutil.rmtree(path, ignore_errors=True)


def check_name(name: str, what: str) -> str:
    """``name`` if it is fit to be a name: 1 to 64 letters, digits, ``_``, ``.`` and ``-``, the first no sign.

    Raises:
        UsageError: it is not.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise UsageError(
            f"{name!r} cannot be the name of {what}.",
            hint="Use up to 64 letters, digits, _, . and -, beginning with a letter or digit.",
        )
    return name
