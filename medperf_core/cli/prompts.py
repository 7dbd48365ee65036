"""Questions to the person at the terminal. They go to standard error, so that data can be piped elsewhere."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence

from medperf_core.cli.text import printable
from medperf_core.errors import CancelledError, DeniedError, UsageError

YES = frozenset({"y", "yes"})
NO = frozenset({"n", "no"})
ATTEMPTS = 5


def ask_yes_no(question: str, *, default: bool = False) -> bool:
    """Ask a question that is answered with y, yes, n or no; Enter gives the answer in capitals.

    Without a terminal the answer is read from standard input, if there is one.

    Raises:
        DeniedError: nobody is there to answer.
        CancelledError: the input was closed at the terminal, or no answer could be made out.
    """
    for _ in range(ATTEMPTS):
        answer = _line(f"{question} [{'Y/n' if default else 'y/N'}] ")
        if answer is None:
            raise DeniedError(
                "There is no terminal to ask at, so the answer is no and nothing was done.",
                hint="Add --yes to approve it beforehand.",
            )
        word = answer.strip().lower()
        if not word:
            return default
        if word in YES | NO:
            return word in YES
        _say("Please answer y or n.\n")
    raise CancelledError("None of the answers was y or n.")


def ask_text(
    question: str,
    secret: bool = False,
    choices: Sequence[str] = (),
    *,
    advice: str = "Say it on the command line; see --help.",
    optional: bool = False,
) -> str:
    """Ask for a word; with ``choices`` only one of them, or its number, is taken. A secret is not shown as typed.

    Args:
        advice: what to do where there is no terminal.
        optional: take Enter for an answer too, which is ""; so is the end of the input.

    Raises:
        UsageError: nobody is there to answer, or no answer could be made out.
        CancelledError: the input was closed at the terminal.
    """
    shown = f"{question} " if question.endswith(("?", ":")) else f"{question}: "
    for number, choice in enumerate(choices, 1):
        _say(f"  {number}. {choice}\n")
    for _ in range(ATTEMPTS):
        given = (_secret if secret and sys.stdin.isatty() else _line)(shown)
        if given is None and optional:
            return ""
        if given is None:
            raise UsageError(f"There is no terminal to ask at: {question}", hint=advice)
        answer = given if secret else given.strip()
        if not choices and (answer or optional):
            return answer
        if answer in choices:
            return answer
        if answer.isascii() and answer.isdigit() and 1 <= int(answer) <= len(choices):
            return choices[int(answer) - 1]
        _say("Please choose one of the above.\n" if choices else "Please type an answer.\n")
    raise UsageError(f"There was no usable answer to {question!r}.")


def _line(question: str) -> str | None:
    """What was typed; None if nobody is there."""
    _say(question)
    answer = sys.stdin.readline()
    if answer:
        if not sys.stdin.isatty():
            _say("\n")
        return answer.rstrip("\n")
    _say("\n")
    if sys.stdin.isatty():
        raise CancelledError("The question was not answered, so nothing was done.")
    return None


def _secret(question: str) -> str:
    try:
        return getpass.getpass(printable(question), stream=sys.stderr)
    except EOFError:
        raise CancelledError("The question was not answered, so nothing was done.") from None


def _say(text: str) -> None:
    sys.stderr.write(printable(text))
    sys.stderr.flush()
