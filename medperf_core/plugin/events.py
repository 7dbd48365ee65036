"""What happens while work goes on, for progress display, logs and embedding programs. All are frozen and plain."""

from __future__ import annotations

import attrs

LINE_LIMIT = 4096
"""Characters of a container's line that an event carries; the rest of the line is in the task's log file only."""


@attrs.frozen
class Event:
    """Base of all events."""


@attrs.frozen
class StepStarted(Event):
    """A step that may take long has begun. ``what`` is a short sentence without a full stop."""

    what: str


@attrs.frozen
class StepFinished(Event):
    """The step ``what`` is done; ``note`` says how if that is worth a word, such as "reused"."""

    what: str
    note: str = ""


@attrs.frozen
class Progress(Event):
    """Bytes or items done of a step. ``total`` is None where it is not known."""

    what: str
    done: int
    total: int | None = None
    unit: str = "B"


@attrs.frozen
class TaskLog(Event):
    """A line that a container wrote, at most ``LINE_LIMIT`` characters, control characters replaced."""

    task: str
    line: str


@attrs.frozen
class Notice(Event):
    """Something that the person at the site should read. ``level`` is "info" or "warning"."""

    message: str
    level: str = "info"
