"""Trying again: what may go well next time, and how long to wait before that."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol

from medperf_core.errors import ConfigurationError, TransferError
from medperf_core.plugin import Notice

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext, CancelToken

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that may be others next time."""

MAX_ATTEMPTS = 100
MAX_PAUSE = 30.0
MAX_RETRY_AFTER = 60.0


class Limits(Protocol):
    """The settings that all stores of this package have. Times are in seconds."""

    @property
    def connect_timeout(self) -> float: ...

    @property
    def read_timeout(self) -> float: ...

    @property
    def attempts(self) -> int: ...

    @property
    def pause(self) -> float: ...


def check_limits(limits: Limits) -> None:
    """Make sure that settings make sense.

    Raises:
        ConfigurationError: they do not.
    """
    if min(limits.connect_timeout, limits.read_timeout) <= 0 or limits.pause < 0:
        raise ConfigurationError("The settings of a store must be time-outs above 0 and a pause of 0 or more seconds.")
    if not 1 <= limits.attempts <= MAX_ATTEMPTS:
        raise ConfigurationError(f"A store can make between 1 and {MAX_ATTEMPTS} attempts.")


class Passing(Exception):
    """Something that may go well at the next attempt; ``after`` is how many seconds the server asked to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


class GivenUpError(TransferError):
    """Something was tried as often as it may be; it may go well later."""


class Patience:
    """Counts the failures of one piece of work, and waits between its attempts.

    Args:
        what: for messages, such as "s3://bucket/key could not be fetched".
        cancel: of this work, if it has a token of its own.
        free: how many failures in a row are tried again without a pause, unless the server asks for one.
    """

    def __init__(
        self,
        limits: Limits,
        context: BackendContext,
        what: str,
        cancel: CancelToken | None = None,
        *,
        free: int = 0,
    ) -> None:
        self._limits = limits
        self._context = context
        self._what = what
        self._cancel = cancel or context.cancel
        self._free = free
        self.failures = 0

    def count(self, *, progressed: bool = False, least: int = 1) -> bool:
        """Count a failure; whether there may be a further attempt.

        Args:
            progressed: something came that need not come again, so that earlier failures no longer count.
            least: what this failure counts as at least.
        """
        self.failures = least if progressed else self.failures + 1
        return self.failures < self._limits.attempts

    def rest(self, failure: Passing, then: str = "trying again") -> None:
        """Wait as long as it has to be after what was counted last.

        Args:
            then: what comes then, for the notice.

        Raises:
            CancelledError: the work is no longer wanted.
        """
        rank = self.failures - self._free
        pause = max(min(self._limits.pause * 2.0 ** (rank - 1), MAX_PAUSE) if rank > 0 else 0.0, failure.after)
        if pause or not self._free:
            self._context.emit(Notice(f"{self._what}: {failure.reason}; {then} in {pause:g} s."))
        self._cancel.wait(pause)
        self._cancel.raise_if_cancelled()

    def failed(self, failure: Passing, *, progressed: bool = False) -> None:
        """Count a failure and wait before the next attempt.

        Raises:
            TransferError: it failed as often as it may.
            CancelledError: the work is no longer wanted.
        """
        if not self.count(progressed=progressed):
            raise self.ended(failure) from None
        self.rest(failure)

    def ended(self, failure: Passing) -> TransferError:
        """The error for who tried often enough."""
        return ended(self._what, failure, self.failures)


def ended(what: str, failure: Passing, attempts: int) -> TransferError:
    """The error for who tried as often as he may."""
    return GivenUpError(
        f"{what}: {failure.reason} (attempt {attempts} of {attempts}).",
        hint="Try again later, and check the network.",
    )


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait (RFC 9110, section 10.2.3), within bounds; 0 if it does not."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return 0.0
    try:
        seconds = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
