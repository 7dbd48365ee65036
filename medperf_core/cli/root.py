"""The root command: global options, the table of commands, and what plugins add to both."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import click

from medperf_core.cli import global_options
from medperf_core.cli.lazy import LazyCommand, LazyGroup
from medperf_core.cli.params import dashes
from medperf_core.cli.session import Session

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from medperf_core.plugin.manager import PluginManager

PLUGIN_OPTIONS = "medperf_core.cli.plugin_options"
COMMANDS_OF: dict[str, str] = {"tutorial": "medperf-examples"}
"""First commands that a distribution of ours adds, so that an error can name what to install."""


def _entry(module: str, attribute: str, summary: str) -> LazyCommand:
    return LazyCommand(f"medperf_core.cli.commands.{module}", attribute, summary)


TABLE = {
    "association": _entry("association", "association", "See and answer requests to take part in benchmarks."),
    "auth": _entry("auth", "auth", "Log in to the profile's server and out of it; keep credentials."),
    "benchmark": _entry("benchmark", "benchmark", "See benchmarks."),
    "bundle": _entry("bundle", "bundle", "Carry a benchmark to a site without internet, in one signed file."),
    "cache": _entry("cache", "cache", "See, check, free and move what is kept of fetched files."),
    "completion": _entry("completion", "completion", "Print the completion script of a shell."),
    "container": _entry("mlcube", "mlcube", "Another name for mlcube."),
    "dataset": _entry("dataset", "dataset", "See registered datasets."),
    "doctor": _entry("doctor", "doctor", "Check this machine and say what is missing."),
    "logs": _entry("logs", "logs", "See the logs of commands, and bundle them to mail."),
    "mlcube": _entry("mlcube", "mlcube", "Package, try, submit and see containers (MLCubes)."),
    "model": _entry("model", "model", "See models and associate them with benchmarks."),
    "plugin": _entry("plugin", "plugin", "See the installed plugins."),
    "profile": _entry("profile", "profile", "Manage profiles: servers, engines and other settings."),
    "site": _entry("site", "site", "See what left this site, and the key that it signs with."),
    "storage": _entry("cache", "cache", "Another name for cache."),
    "test": _entry("test", "test", "Test a model, or all of a benchmark, on demo data."),
}


class Root(LazyGroup):
    """The root group. Plugins are loaded only for help, for an unknown option, for an unknown command and for the
    completion of its own words."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> Any:
        """Run and end the process; see ``medperf_core.cli.run``."""
        from medperf_core.cli.run import run

        sys.exit(run(self, sys.argv[1:] if args is None else args))

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *ctx.meta.get(PLUGIN_OPTIONS, ())]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.ensure_object(Session).look_ahead(args)
        if ctx.resilient_parsing and any(word.startswith("--") for word in self._own_words(args)):
            self._offer_options(ctx)
        try:
            return super().parse_args(ctx, list(args))
        except click.NoSuchOption as error:
            from medperf_core.cli import plugins

            if PLUGIN_OPTIONS in ctx.meta or not error.option_name.startswith("--"):
                raise
            ctx.meta[PLUGIN_OPTIONS] = plugins.options(ctx.ensure_object(Session).plugins())
            try:
                return super().parse_args(ctx, list(args))
            except click.NoSuchOption as again:
                plugins.explain_unknown_option(again, ctx.meta[PLUGIN_OPTIONS])
                raise

    def _own_words(self, args: Sequence[str]) -> Iterator[str]:
        """The words before the command."""
        return takewhile(lambda word: dashes(word) not in self.table, args)

    def _offer_options(self, ctx: click.Context) -> PluginManager | None:
        """Let the shell complete the options of plugins, if they can be loaded."""
        from medperf_core.cli import plugins

        loaded = plugins.load_or_none(ctx, quiet=True)
        ctx.meta[PLUGIN_OPTIONS] = plugins.options(loaded)
        return loaded

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from medperf_core.cli import plugins

        plugins.add_commands(self, self._offer_options(ctx))
        return super().shell_complete(ctx, incomplete)

    def get_help(self, ctx: click.Context) -> str:
        from medperf_core.cli import plugins

        loaded = plugins.load_or_none(ctx)
        ctx.meta[PLUGIN_OPTIONS] = plugins.options(loaded)
        plugins.add_commands(self, loaded)
        return super().get_help(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        added = ctx.meta.get(PLUGIN_OPTIONS, ())
        for title, params in (
            ("Options", [param for param in self.get_params(ctx) if param not in added]),
            ("Options of plugins", added),
        ):
            rows = [record for param in params if (record := param.get_help_record(ctx)) is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
        self.format_commands(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = dashes(args[0])
        if self.get_command(ctx, name) is None:
            from medperf_core.cli import plugins

            completing = ctx.resilient_parsing
            loaded = plugins.load_or_none(ctx, quiet=True) if completing else ctx.ensure_object(Session).plugins()
            plugins.add_commands(self, loaded)
            if name not in self.commands and not completing:
                plugins.refuse_unknown_command(ctx, args[0], self.list_commands(ctx), COMMANDS_OF)
        return super().resolve_command(ctx, args)


def make_root() -> Root:
    """A new root command; each command line has its own, because plugins may add to it."""
    return Root(
        "medperf",
        table=TABLE,
        params=global_options.options(),
        callback=global_options.apply,
        help="Benchmark medical AI models on data that stays where it is.\n\n"
        "Options of several words may be written with - or with _. The options below go before the command.",
        context_settings={
            "token_normalize_func": dashes,
            "help_option_names": ["-h", "--help"],
            "max_content_width": 110,
        },
    )
