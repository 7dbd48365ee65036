"""How a command line ends badly: one paragraph for the person, a traceback for the log, a documented exit code.

Exit codes: those of ``medperf_core.errors``; 2 for wrong usage; 70 for an error of this program; 128 + the signal's
number if a signal ended it (130 for Ctrl-C, 143 for SIGTERM); 141 if standard output was closed.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import sys
import traceback

import click

from medperf_core.cli.session import Session
from medperf_core.cli.text import printable
from medperf_core.errors import CancelledError, MedperfError, TransferError

INTERNAL_ERROR = 70
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
logger = logging.getLogger(__name__)


def report(error: BaseException, session: Session, *, signal_number: int | None = None) -> int:
    """Tell the person about an error that ended the command, log it, and return the exit code.

    Args:
        error: what was raised.
        session: of the command line.
        signal_number: the signal that asked the program to stop, if one did.
    """
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    log = None if isinstance(error, (click.ClickException, click.Abort)) else session.log_file()
    logger.error("the command ended with %s", type(error).__name__, exc_info=(type(error), error, error.__traceback__))
    if isinstance(error, BrokenPipeError) and _reader_is_gone():
        _discard_output()
        return 128 + signal.SIGPIPE
    if signal_number is not None or isinstance(error, (KeyboardInterrupt, click.Abort)):
        number = signal_number or signal.SIGINT
        _say("Interrupted:", f"{signal.Signals(number).name} asked for it. What was running here was stopped.")
        return 128 + number
    if session.debug:
        click.echo(printable(session.redactor()("".join(traceback.format_exception(error)))), err=True)
    if isinstance(error, click.ClickException):
        return _usage(error)
    clean = session.redactor().known
    if isinstance(error, MedperfError):
        _say("Stopped:" if isinstance(error, CancelledError) else "Error:", clean(str(error)))
        return error.exit_code
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        _say(
            "Error:",
            f"There is no room left on the disk ({error.strerror}{f': {error.filename}' if error.filename else ''}). "
            "Nothing half-done was kept. Free some room, then run the same command again.",
        )
        return TransferError.exit_code
    where = f" The log has the details: {log}." if log else ""
    _say(
        "Error:",
        f"Something went wrong that this program did not expect ({type(error).__name__}: {clean(str(error))}).{where} "
        "Run the command with --debug to see where, and `medperf logs --bundle FILE` to send us the log.",
    )
    return INTERNAL_ERROR


def _usage(error: click.ClickException) -> int:
    ctx = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption) and ctx is not None and ctx.parent is not None:
        root = ctx.find_root()
        known = {option for param in root.command.params for option in param.opts}
        if error.option_name in known:
            words = f"{root.info_name} {error.option_name} ... {ctx.command_path.partition(' ')[2]} ..."
            error = click.UsageError(f"{error.option_name} goes before the command: {words}", ctx=ctx)
    error.show()
    return error.exit_code


def _say(label: str, text: str) -> None:
    try:
        click.echo(f"{click.style(label, fg='red', bold=True)} {printable(text)}", err=True)
    except BrokenPipeError:
        _discard_output()


def _reader_is_gone() -> bool:
    """Whether nobody reads our output any more, so that a broken pipe is not the error of some other connection."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        try:
            poll.register(stream.fileno(), 0)
        except (OSError, ValueError):
            continue
    return any(event & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, event in poll.poll(0))


def _discard_output() -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nothing, stream.fileno())
        except (OSError, ValueError):
            continue
