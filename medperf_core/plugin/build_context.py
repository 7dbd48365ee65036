"""The source tree that an image is built from: a private copy, so that what was hashed is what is built."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from medperf_core.errors import ConfigurationError, InvalidEntityError, NotFoundError
from medperf_core.plugin.context import BackendContext
from medperf_core.plugin.digest import IGNORED_IN_SOURCES, tree_entries


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
                shutil.copyfile(entry.absolute, target, follow_symlinks=False)
                target.chmod(0o755 if entry.executable else 0o644)
        yield copy


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
