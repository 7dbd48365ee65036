"""Places that the person at the site named for what a command writes; one that cannot be used is wrong usage."""

from __future__ import annotations

from pathlib import Path

from medperf_core.errors import UsageError


def make_folder(path: Path, what: str) -> None:
    """Make a folder and those above it, as far as they are not there.

    Args:
        what: what it is to the person who named it, such as ``The output folder out``; begins the sentence.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(f"{what} cannot be made", error) from error


def check_place(path: Path, what: str) -> None:
    """Refuse a path of which the system does not even say whether something is there.

    Args:
        what: as for ``make_folder``.

    Raises:
        UsageError: its name is too long, it leads through a file or through a folder that others may not enter, ...
    """
    try:
        path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(f"{what} cannot be used", error) from error


def _unusable(what: str, error: OSError) -> UsageError:
    return UsageError(f"{what}: {error.strerror} ({error.filename}).", hint="Name a place where you may write.")
