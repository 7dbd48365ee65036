"""One command line: its global options, and the Site and the log that they lead to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medperf_core.errors import MedperfError

if TYPE_CHECKING:
    from medperf_core.plugin.manager import PluginManager
    from medperf_core.site.home import Home
    from medperf_core.site.logs import CommandLog
    from medperf_core.site.redact import Redactor
    from medperf_core.site.site import Site


class Session:
    """What the words before the command said, and what the command's own ``--allow`` and ``--offline`` add.

    Plugins' commands find it by ``click.get_current_context().obj``.

    Attributes:
        words: of the command line, for the log.
        home, profile: as given; None for the usual ones.
        debug: show tracebacks.
        quiet: show results, warnings and errors only.
        options: fields of ``SiteOptions`` that were given.
        allow: waivers that were given.
        settings: of backends, by backend and field.
        site: the open site, while there is one.
        log: the log of this command line, once it is open.
    """

    def __init__(self, words: Sequence[str] = ()) -> None:
        self.words = tuple(words)
        self.home: Path | None = None
        self.profile: str | None = None
        self.debug = False
        self.quiet = False
        self.options: dict[str, Any] = {}
        self.allow: list[str] = []
        self.settings: dict[str, dict[str, Any]] = {}
        self.site: Site | None = None
        self.log: CommandLog | None = None
        self._plugins: PluginManager | None = None
        self._redactor: Redactor | None = None
        self._closing = contextlib.ExitStack()

    def look_ahead(self, words: Sequence[str]) -> None:
        """Take ``--home`` and ``--profile`` from words that are not parsed yet: they say which plugins are blocked."""
        for index, word in enumerate(words):
            name, equals, value = word.partition("=")
            value = value if equals else "".join(words[index + 1 : index + 2])
            if name == "--home" and value:
                self.home = Path(value)
            elif name == "--profile" and value:
                self.profile = value

    def override(self, values: Mapping[str, Any]) -> None:
        """Take over global options that were given."""
        self.options.update({name: value for name, value in values.items() if value not in (None, (), False)})

    def plugins(self) -> PluginManager:
        """The plugins of the profile in use, loaded once."""
        if self._plugins is None:
            from medperf_core.cli.early import load_plugins

            self._plugins = load_plugins(self.home, self.profile)
        return self._plugins

    @contextlib.contextmanager
    def opened(self, *, yes: bool = False, tasks: Sequence[str] = ()) -> Iterator[Site]:
        """The site of this command line; when the block ends, the screen is free for the command's results.

        Args:
            yes: whatever would be sent is approved beforehand.
            tasks: that the command runs beside the field's, so that ``--time-limit`` may name them.

        Raises:
            UsageError: ``--time-limit`` names another task.
        """
        from medperf_core.cli.approver import ApprovedBeforehand, AskingApprover
        from medperf_core.cli.progress import display
        from medperf_core.site.options import SiteOptions, check_task_names
        from medperf_core.site.site import Site

        check_task_names(self.options.get("time_limits", ()), tasks)
        shown = display(quiet=self.quiet)
        approver = ApprovedBeforehand(shown) if yes else AskingApprover(shown)
        options = SiteOptions(allow=tuple(self.allow), settings=self.settings, **self.options)
        try:
            with Site.open(
                home=self.home,
                profile=self.profile,
                approver=approver,
                on_event=shown,
                options=options,
                plugins=self._plugins,
                redact=self.redactor(),
            ) as self.site:
                self.open_log(self.site.home, self.site.profile.loglevel)
                yield self.site
        finally:
            self.site = None
            shown.close()

    def redactor(self) -> Redactor:
        """Keeps the secrets that this command line meets out of its log."""
        if self._redactor is None:
            from medperf_core.site.redact import Redactor

            self._redactor = Redactor()
        return self._redactor

    def open_log(self, home: Home, level: str = "info") -> CommandLog:
        """The log file of this command line, made when first asked for."""
        if self.log is None:
            from medperf_core.site.logs import CommandLog

            self.log = self._closing.enter_context(
                CommandLog(home, self.redactor(), level="debug" if self.debug else level, command=self.words)
            )
        return self.log

    def log_file(self) -> Path | None:
        """The log file, made now if it is not there yet; None if this home cannot hold one."""
        from medperf_core.site.home import Home

        try:
            return (self.log or self.open_log(Home.open(self.home))).path
        except (MedperfError, OSError, ImportError):
            return None

    def cancel(self) -> None:
        """Tell the work in hand to stop."""
        if self.site is not None:
            self.site.cancel.cancel()

    def close(self) -> None:
        """The command line is over."""
        self._closing.close()


pass_session = click.make_pass_decorator(Session)
"""Hands the ``Session`` to a command as its first argument."""
