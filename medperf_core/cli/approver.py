"""Asks the person at the terminal before anything leaves the site."""

from __future__ import annotations

import hashlib
import json

import click

from medperf_core.cli.jsontext import indented
from medperf_core.cli.progress import PlainDisplay
from medperf_core.cli.prompts import ask_yes_no
from medperf_core.cli.text import printable
from medperf_core.errors import DeniedError
from medperf_core.site.approver import Answer

ONE_LINE = 60
UPLOAD = "upload: "
"""Begins what is asked for files: the bytes to show are their list, which does not leave itself."""


class AskingApprover:
    """Shows what would be sent, to whom, and every word of it, and takes y or n for an answer."""

    def __init__(self, display: PlainDisplay) -> None:
        self._display = display

    def approve(self, what: str, target: str, body: bytes) -> Answer:
        """Whether the person agrees that ``body`` is sent to ``target``."""
        with self._display.paused():
            click.echo(presentation(what, target, body), err=True)
            try:
                return Answer(ask_yes_no(f"Send this to {target}?"), "person")
            except KeyboardInterrupt:
                click.echo("\nNothing was sent.", err=True)
                raise
            except DeniedError as error:
                click.echo(str(error), err=True)
                return Answer(False, "nobody")


class ApprovedBeforehand:
    """Stands in for the person who said ``--yes``; still shows what is sent."""

    def __init__(self, display: PlainDisplay) -> None:
        self._display = display

    def approve(self, what: str, target: str, body: bytes) -> Answer:
        """Always true."""
        with self._display.paused():
            click.echo(presentation(what, target, body), err=True)
            click.echo("Sent without asking because of --yes.", err=True)
        return Answer(True, "--yes")


def presentation(what: str, target: str, body: bytes) -> str:
    """What would be sent, for reading: the bytes themselves if they are short or no JSON, else laid out in lines.

    Of files, their list.
    """
    if what.startswith(UPLOAD):
        listed = printable(indented(body.decode()))
        return f"About to upload: {printable(what.removeprefix(UPLOAD))}\nTo: {printable(target)}\n{listed}"
    size = f"{len(body)} bytes, SHA-256 {hashlib.sha256(body).hexdigest()}"
    head = f"About to send: {printable(what)}\nTo: {printable(target)}\nContent ({size})"
    try:
        text = body.decode()
        json.loads(text)
    except ValueError:
        return f"{head}:\n{printable(body.decode(errors='backslashreplace'))}"
    if len(text) <= ONE_LINE:
        return f"{head}:\n{printable(text)}"
    return f"{head}, laid out in lines here, sent without the added line ends and spaces:\n{printable(indented(text))}"
