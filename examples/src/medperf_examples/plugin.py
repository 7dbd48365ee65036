"""The plugin of this distribution: ``medperf tutorial``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medperf_core.plugin import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def medperf_commands(group: click.Group) -> None:
    """Add ``tutorial``."""
    from medperf_examples.commands import tutorial

    group.add_command(tutorial)
