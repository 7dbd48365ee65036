"""One tree of errors for the command line, for plugins and for programs that embed the core.

Every error says what happened, to which thing, and what to do next; each class has the exit code that the
``medperf`` command ends with. The codes are part of the interface: see ``docs/reference/errors.md``.
"""

from __future__ import annotations

from collections.abc import Iterable


class MedperfError(Exception):
    """Base of all errors that the program expects.

    Args:
        message: what failed and on which entity or file, as one sentence.
        hint: what the reader can do about it, as one sentence; shown after the message, below one of several lines.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        between = "\n" if "\n" in self.message else " "
        return f"{self.message}{between}{self.hint}" if self.hint else self.message


class UsageError(MedperfError):
    """The words of a command or the arguments of a call do not fit together."""

    exit_code = 2


class ConfigurationError(MedperfError):
    """A profile, a setting or the home folder is not usable as it is."""

    exit_code = 3


class PluginError(MedperfError):
    """A plugin is missing, broken, blocked or of another API version."""

    exit_code = 4


class NotFoundError(MedperfError):
    """An entity, a name or a file does not exist."""

    exit_code = 5


class InvalidEntityError(MedperfError):
    """An entity, a manifest or another document breaks its rules.

    ``problems`` lists all of them, so that one run shows everything that has to be mended.
    """

    exit_code = 6

    def __init__(self, message: str, *, problems: Iterable[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        hint = f"\n{self.hint}" if self.hint and self.problems else (f" {self.hint}" if self.hint else "")
        return f"{self.message}{lines}{hint}"


class VerificationError(MedperfError):
    """Bytes or an image are not what they were said to be; nothing of them was kept or run."""

    exit_code = 7


class TransferError(MedperfError):
    """A file could not be fetched or stored."""

    exit_code = 8


class AccessRefusedError(TransferError):
    """Whoever has a file answered that he does not give it to somebody who asks like that: without an account, or with
    this one. Never a fault that may pass."""


class ServerError(MedperfError):
    """The server could not be reached, or refused or misread a request."""

    exit_code = 9


class AuthenticationError(ServerError):
    """Nobody is logged in, or the login is no longer valid."""

    exit_code = 10


class PermissionDeniedError(ServerError):
    """The logged-in user may not do this."""

    exit_code = 11


class IsolationError(MedperfError):
    """A required guarantee or limit cannot be given here and was not waived; nothing was started."""

    exit_code = 12


class ExecutionError(MedperfError):
    """A container task failed; the message has the exit code and the last lines of its output."""

    exit_code = 13


class TimeLimitError(ExecutionError):
    """A task ran past its time limit and was stopped."""

    exit_code = 14


class DeniedError(MedperfError):
    """A policy or the person asked said no; nothing was sent or run."""

    exit_code = 15


class OfflineError(MedperfError):
    """The network was needed while working offline."""

    exit_code = 16


class CheckFailedError(MedperfError):
    """A test ran, but a check of ``--strict`` found what breaks on other sites, or the platforms of ``--platforms``
    do not come to the same; the reports were kept."""

    exit_code = 17


class CancelledError(MedperfError):
    """The work was interrupted by the user or by the embedding program."""

    exit_code = 130
