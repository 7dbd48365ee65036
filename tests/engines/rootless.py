"""The unprivileged account that the rootless engines run as."""

from __future__ import annotations

import pwd
import re
import shutil
import threading
from pathlib import Path

from .engine import need
from .processes import run

USER = "medperf-test"
COUNT = 65536
FIRST = 100000
TABLES = (Path("/etc/subuid"), Path("/etc/subgid"))
_making = threading.Lock()
"""Engines start at the same time."""


def planned() -> str:
    """What `ensure_user` would change, as a sentence to append; "" for nothing."""
    try:
        pwd.getpwnam(USER)
    except KeyError:
        return f" Makes the account {USER}, without a password and with {COUNT} subordinate user and group ids."
    return ""


def ensure_user() -> None:
    """Make the account, and give it subordinate ids that nobody else has, unless that was done before."""
    with _making:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            run([need("useradd"), "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", USER])
        for table in TABLES:
            _give_ids(table, USER)


def give_ids(user: str) -> None:
    """Give an account subordinate ids that nobody else has, unless it has some."""
    with _making:
        for table in TABLES:
            _give_ids(table, user)


def has_ids(user: str) -> bool:
    """Whether an account has subordinate user and group ids."""
    return all(_listed(table, user) for table in TABLES)


def _listed(table: Path, user: str) -> bool:
    text = table.read_text() if table.exists() else ""
    return re.search(rf"^(?:{user}|{pwd.getpwnam(user).pw_uid}):", text, re.MULTILINE) is not None


def _give_ids(table: Path, user: str) -> None:
    if _listed(table, user):
        return
    text = table.read_text() if table.exists() else ""
    ends = [int(start) + int(count) for start, count in re.findall(r":([0-9]+):([0-9]+)$", text, re.MULTILINE)]
    if text and not text.endswith("\n"):
        text += "\n"
    table.write_text(f"{text}{user}:{max([FIRST, *ends])}:{COUNT}\n")


def own_folder(path: Path) -> None:
    """Make a folder of that account, which others may pass through."""
    path.mkdir(mode=0o711, exist_ok=True)
    shutil.chown(path, USER, USER)
