"""Copies files of a source tree into an unpacked root file system, which links of its own must not lead out of."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from medperf_core.errors import ExecutionError, InvalidEntityError
from medperf_singularity.recipe import Copy

_LINKS = 40


def copy_into(tree: Path, root: Path, step: Copy) -> None:
    """Do one COPY.

    A folder's content is copied, not the folder; of the target, missing folders are made. Files get the owner that
    runs this, readable for all unless the step says otherwise.

    Raises:
        InvalidEntityError: a source is not there.
        ExecutionError: the target cannot be, such as a folder where a file is.
    """
    sources = [path for pattern in step.sources for path in _found(tree, pattern)]
    if not sources:
        raise InvalidEntityError(f"The build file copies {', '.join(step.sources)}, which is not there.")
    try:
        target = inside(root, step.target)
        folder = step.target.endswith("/") or len(sources) > 1 or target.is_dir()
        for source in sources:
            if source.is_dir() and not source.is_symlink():
                _copy_folder(source, root, target, step.mode)
            else:
                _copy_file(source, target / source.name if folder else target, step.mode)
    except (OSError, ValueError) as error:
        raise ExecutionError(
            f"{', '.join(step.sources)} cannot be copied to {step.target!r}: {_words(error)}."
        ) from error


def _found(tree: Path, pattern: str) -> Iterator[Path]:
    relative = pattern.lstrip("/")
    if relative in ("", "."):
        yield tree
    elif any(char in relative for char in "*?["):
        yield from sorted(tree.glob(relative))
    elif os.path.lexists(tree / relative):
        yield tree / relative


def inside(root: Path, path: str) -> Path:
    """The place on this machine of an absolute path in the root file system, its links followed within it.

    Raises:
        ExecutionError: its links go in a circle.
    """
    left = [part for part in PurePosixPath(path).parts if part != "/"][::-1]
    place, followed = root, 0
    while left:
        part = left.pop()
        if part == "..":
            place = place.parent if place != root else root
            continue
        here = place / part
        if not here.is_symlink():
            place = here
            continue
        followed += 1
        if followed > _LINKS:
            raise ExecutionError(f"{path} in the base image leads in a circle.")
        target = PurePosixPath(here.readlink())
        if target.is_absolute():
            place = root
        left += [each for each in target.parts if each != "/"][::-1]
    return place


def make_folder(root: Path, path: str) -> None:
    """Make a folder of the root file system, unless it is there.

    Raises:
        ExecutionError: it cannot be, such as where a file is.
    """
    try:
        inside(root, path).mkdir(mode=0o755, parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise ExecutionError(f"The folder {path[:200]!r} cannot be made in the image: {_words(error)}.") from error


def remove_special(root: Path) -> None:
    """Remove devices, pipes and sockets: no task could use them, and root's writing to one would reach this machine."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            if stat.S_IFMT(path.lstat().st_mode) not in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK):
                path.unlink()


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)  # not the path on this machine


def _copy_folder(source: Path, root: Path, target: Path, mode: int | None) -> None:
    target.mkdir(mode=0o755, parents=True, exist_ok=True)
    for item in sorted(source.iterdir()):
        place = inside(root, f"/{(target / item.name).relative_to(root)}") if item.is_dir() else target / item.name
        if item.is_dir() and not item.is_symlink():
            _copy_folder(item, root, place, mode)
        else:
            _copy_file(item, place, mode)


def _copy_file(source: Path, target: Path, mode: int | None) -> None:
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if os.path.lexists(target) and not (target.is_dir() and not target.is_symlink()):
        target.unlink()  # whatever it is: writing to a device would reach this machine
    if source.is_symlink():
        target.symlink_to(source.readlink())
        return
    shutil.copyfile(source, target, follow_symlinks=False)
    target.chmod(mode if mode is not None else 0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)
