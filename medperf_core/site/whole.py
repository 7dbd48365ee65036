"""Files that came in several parts, held together by their version only, and turn out wrong: once more in one piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from medperf_core.plugin.events import Event, Notice

T = TypeVar("T")


def received(
    receive: Callable[[bool], tuple[T, bool]], fits: Callable[[T], bool], shown: str, emit: Callable[[Event], None]
) -> T:
    """What comes, whether it fits or not; asked for once more if parts of it may not belong together.

    Args:
        receive: is told whether to take all bytes from one answer (``FetchRequest.whole``); gives what came, and
            whether it came in several parts.
        fits: whether it is the expected file.
        shown: its address, without secrets.
        emit: is told of a second time.
    """
    found, joined = receive(False)
    if joined and not fits(found):
        emit(
            Notice(
                f"{shown} came in several parts that do not make up the expected file; it is fetched once more in one "
                "piece.",
                "warning",
            )
        )
        found, _ = receive(True)
    return found
