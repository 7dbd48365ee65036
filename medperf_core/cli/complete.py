"""What the shell is offered for words that only this site knows; nothing where they cannot be found out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from medperf_core.cli.session import Session

if TYPE_CHECKING:
    from medperf_core.plugin.descriptors import Descriptor


def profiles(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of profiles."""
    from medperf_core.cli.early import profile_names

    return [name for name in profile_names(ctx.ensure_object(Session).home) if name.startswith(incomplete)]


def platforms(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of the installed runners."""
    from medperf_core.plugin.descriptors import RunnerPlugin

    return _backends(ctx, RunnerPlugin, incomplete)


def executors(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of the installed executors."""
    from medperf_core.plugin.descriptors import ExecutorPlugin

    return _backends(ctx, ExecutorPlugin, incomplete)


def _backends(ctx: click.Context, kind: type[Descriptor], incomplete: str) -> list[str]:
    from medperf_core.cli.plugins import load_or_none

    manager = load_or_none(ctx, quiet=True)
    return [item.name for item in manager.all(kind) if item.name.startswith(incomplete)] if manager else []
