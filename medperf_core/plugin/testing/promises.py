"""How a conformance kit passes over what a backend does not promise: by name, never in silence."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from _pytest.outcomes import Skipped
else:
    Skipped = pytest.skip.Exception


class NotPromised(Skipped):
    """The running test is about something that the backend does not say it does.

    A class of its own, so that a project's CI can take these skips, and only these, for good.
    """

    __module__ = "builtins"  # pytest shows it before the reason


def not_promised(name: str, what: str) -> NoReturn:
    """Skip the running test, because the backend does not say that it does this.

    Args:
        name: the backend's name, such as ``http``.
        what: the promise, as the end of a sentence, such as "a version of each file".
    """
    raise NotPromised(f"{name} does not promise {what}", _use_item_location=True)
