"""The source tree that an image is built from: a private copy, so that what was hashed is what is built."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from medperf_core.errors import ConfigurationError, InvalidEntityError, NotFoundError
from medperf_core.plugin.context import BackendContext
from medperf_core.plugin.digest import CHUNK, IGNORED_IN_SOURCES, tree_entries


def build_arguments(words: Sequence[str]) -> dict[str, str]:
    """Build arguments of the settings by name.

    Raises:
        ConfigurationError: one is not of the form NAME=VALUE.
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
            raise ConfigurationError(f"The build argument {word!r} is not of the form NAME=VALUE.")
        found[name] = value
    return found


@contextmanager
def private_copy(root: Path, context: BackendContext) -> Iterator[Path]:
    """A copy of a source tree that nobody else can change; removed afterwards, with its parent, which is for the build.

    Raises:
        NotFoundError: there is no such folder.
        InvalidEntityError: a file in it cannot be read, or was replaced meanwhile.
    """
    if not root.is_dir():
        raise NotFoundError(f"The source tree {root} does not exist.")
    context.temp_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=context.temp_dir) as folder:
        copy = Path(folder, "tree")
        copy.mkdir()
        for entry in tree_entries(root, IGNORED_IN_SOURCES):
            context.cancel.raise_if_cancelled()
            target = copy / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if entry.link is not None:
                target.symlink_to(entry.link)
            else:
                _copy(entry.absolute, target, 0o755 if entry.executable else 0o644)
        yield copy


def _copy(source: Path, target: Path, mode: int) -> None:
    """Copy a file; not what somebody put in its place since the tree was looked at, such as a link to a file of root's.

    Raises:
        InvalidEntityError: it is no file any more.
    """
    try:
        with os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise InvalidEntityError(f"{source} is no longer a file.", hint="Run the command again.")
            with target.open("xb") as copy:
                shutil.copyfileobj(stream, copy, CHUNK)
                os.fchmod(copy.fileno(), mode)
    except OSError as error:
        raise InvalidEntityError(
            f"{source} cannot be copied: {error.strerror}.", hint="Check its permissions and the room on the disk."
        ) from error


def build_file(copy: Path, name: str) -> str:
    """The name of a tree's build file, checked to be in the tree.

    Raises:
        InvalidEntityError: it leads out of the tree.
        NotFoundError: there is none.
    """
    inside = PurePosixPath(name)
    path = copy / inside
    if inside.is_absolute() or ".." in inside.parts or not path.resolve().is_relative_to(copy.resolve()):
        raise InvalidEntityError(f"The build file {name!r} is not inside its source tree.")
    if not path.is_file():
        raise NotFoundError(
            f"The build file {name!r} is not in its source tree.", hint="Correct its name in the manifest."
        )
    return str(inside)
