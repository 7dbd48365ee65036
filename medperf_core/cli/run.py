"""Run one command line: its context, its signals, its errors, and the exit code that comes of them."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import click

from medperf_core.cli import failures
from medperf_core.cli.session import Session

PROGRAM = "medperf"
COMPLETE_VARIABLE = "_MEDPERF_COMPLETE"


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(root: click.Group, arguments: Sequence[str]) -> int:
    """Run ``medperf ARGUMENTS...`` and return its exit code; nothing is raised.

    While it runs, SIGINT, SIGTERM and SIGHUP set the cancel token of the open site and unwind the work; a second
    one while that happens is answered with a word, a third one ends the program at once.
    """
    completion = os.environ.get(COMPLETE_VARIABLE)
    if completion:
        from click.shell_completion import shell_complete

        return shell_complete(root, {}, PROGRAM, COMPLETE_VARIABLE, completion)
    session = Session(arguments)
    silence = logging.NullHandler()  # what is logged goes to the log file; without it Python writes warnings here
    logging.getLogger().addHandler(silence)
    with _signals(session) as caught:
        try:
            with root.make_context(PROGRAM, list(arguments), obj=session) as ctx:
                root.invoke(ctx)
            sys.stdout.flush()
            return 0
        except click.exceptions.Exit as leaving:
            return leaving.exit_code
        except BaseException as error:
            return failures.report(error, session, signal_number=caught[0] if caught else None)
        finally:
            session.close()
            logging.getLogger().removeHandler(silence)


@contextmanager
def _signals(session: Session) -> Iterator[list[int]]:
    caught: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        session.cancel()
        if len(caught) == 2:
            os.write(2, b"Stopping what is running; once more to leave it as it is.\n")
            return
        raise Interrupted(number)

    # a signal that whoever started us had ignored stays so: nohup does that, and shells for jobs in the background
    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    try:
        before = {number: signal.signal(number, stop) for number in numbers}
    except ValueError:  # not the main thread: whoever runs that thread has the signals
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
