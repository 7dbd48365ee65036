"""What happens, shown on standard error: moving on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from medperf_core.cli.pace import Pace, clock
from medperf_core.cli.text import columns, fit, printable
from medperf_core.plugin.events import Event, Notice, Progress, StepFinished, StepStarted, TaskLog
from medperf_core.site.sizes import unit_of

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 5.0
BAR_WIDTH = 20
WIDE = 110
"""Columns of a terminal on which there is room for bars and the time so far, beside what is done and how fast."""


class PlainDisplay:
    """One line for each thing that happens. An event sink; may be called from any thread."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._lock = threading.Lock()
        self._told: dict[str, float] = {}
        self._paces: dict[str, Pace] = {}

    def __call__(self, event: Event) -> None:
        line = self._words(event)
        if line is not None:
            with self._lock:
                click.echo(printable(line), err=True)

    def _words(self, event: Event) -> str | None:
        if isinstance(event, Notice):
            return notice(event) if event.level != "info" or not self._quiet else None
        if self._quiet:
            return None
        if isinstance(event, Progress):
            return self._progress(event)
        self._forget(event)
        return words(event)

    def _progress(self, event: Progress) -> str | None:
        now = time.monotonic()
        pace = self._pace(event, now)
        last = self._told.setdefault(event.what, now)
        if now - last < SECONDS_BETWEEN_LINES:
            return None
        self._told[event.what] = now
        return f"  {event.what}: {amount(event)}{speed(event, pace)}"

    def _pace(self, event: Progress, now: float) -> Pace:
        pace = self._paces.setdefault(event.what, Pace())
        pace.note(now, event.done)
        return pace

    def _forget(self, event: Event) -> None:
        if isinstance(event, StepStarted | StepFinished):
            self._paces.pop(event.what, None)
            self._told.pop(event.what, None)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the screen to a question."""
        yield

    def close(self) -> None:
        """The work is over."""


class LiveDisplay(PlainDisplay):
    """Bars and a spinner for the steps in hand, on a terminal; the lines of containers scroll past above them."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        if self._quiet:
            super().__call__(event)
            return
        from rich.text import Text

        with self._lock:
            bars = self._made()
            if isinstance(event, StepStarted):
                self._task(bars, event.what)
            elif isinstance(event, Progress):
                shown = amount(event) + speed(event, self._pace(event, time.monotonic()))
                bars.update(
                    self._task(bars, event.what),
                    description=_described(event.what, shown, bars.console.width),
                    completed=event.done,
                    total=event.total,
                    amount=shown,
                )
                if event.total is not None and event.done >= event.total:
                    self._drop(bars, event.what)
            else:
                self._forget(event)
                if isinstance(event, StepFinished):
                    self._drop(bars, event.what)
                line = notice(event) if isinstance(event, Notice) else words(event)
                if line is not None:
                    style = "dim" if isinstance(event, TaskLog) else "yellow" if isinstance(event, Notice) else ""
                    bars.console.print(Text(printable(line), style), soft_wrap=True)

    def _made(self) -> RichProgress:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bars

            console = Console(stderr=True)
            wide = console.width >= WIDE
            self._bars = Bars(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                *([BarColumn(bar_width=BAR_WIDTH)] if wide else []),
                TextColumn("{task.fields[amount]}", markup=False),
                *([TimeElapsedColumn()] if wide else []),
                console=console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
        return self._bars

    def _task(self, bars: RichProgress, what: str) -> TaskID:
        if what not in self._tasks:
            bars.start()
            described = _described(what, "", bars.console.width)
            self._tasks[what] = bars.add_task(described, total=None, amount="")
        return self._tasks[what]

    def _drop(self, bars: RichProgress, what: str) -> None:
        task = self._tasks.pop(what, None)
        if task is not None:
            bars.remove_task(task)
            if not self._tasks:
                bars.stop()  # whoever writes a line now has the screen

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        if self._bars is None:
            yield
            return
        self._bars.stop()
        try:
            yield
        finally:
            if self._tasks:
                self._bars.start()

    def close(self) -> None:
        if self._bars is not None:
            self._bars.stop()


def display(*, quiet: bool) -> PlainDisplay:
    """The display that fits standard error."""
    return LiveDisplay(quiet=quiet) if sys.stderr.isatty() else PlainDisplay(quiet=quiet)


def _described(what: str, shown: str, width: int) -> str:
    """What is being done, in the room that a terminal of that width leaves beside how much of it is done."""
    others = columns(shown) + len("* ") + len("  ") + (BAR_WIDTH + len(" 0:00:00 ") if width >= WIDE else 0)
    return fit(printable(what), max(width - others, 10))


def words(event: Event) -> str | None:
    """An event as one line; None if there is nothing to say."""
    if isinstance(event, StepStarted):
        return f"{event.what} ..."
    if isinstance(event, StepFinished):
        return f"{event.what}: {event.note or 'done'}"
    if isinstance(event, TaskLog):
        return f"  [{event.task}] {event.line}"
    return None


def notice(event: Notice) -> str:
    """A notice as one line."""
    return event.message if event.level == "info" else f"{event.level.capitalize()}: {event.message}"


def amount(event: Progress) -> str:
    """How much is done, such as ``3.2 of 12.0 MiB``."""
    if event.unit != "B":
        return f"{event.done}{'' if event.total is None else f' of {event.total}'} {event.unit}"
    unit, size = unit_of(event.total or event.done)
    done = f"{event.done / size:.1f}" if size > 1 else str(event.done)
    total = "" if event.total is None else f" of {event.total / size:.1f}" if size > 1 else f" of {event.total}"
    return f"{done}{total} {unit}"


def speed(event: Progress, pace: Pace) -> str:
    """How fast bytes come and how long it will take, to be put behind the amount; "" if that is not known."""
    if event.unit != "B" or pace.rate is None:
        return ""
    unit, size = unit_of(int(pace.rate))
    left = pace.left(event.total)
    return f", {pace.rate / size:.1f} {unit}/s" + (f", {clock(left)} left" if left else "")
