"""``medperf dataset``."""

from __future__ import annotations

import click

from medperf_core.cli.output import Format
from medperf_core.cli.params import UID, format_option, mine_option, run_options
from medperf_core.cli.registry import list_entities, view_entity
from medperf_core.cli.session import Session, pass_session
from medperf_core.entities import Dataset

COLUMNS = (
    ("UID", lambda item: item.id),
    ("Name", lambda item: item.name),
    ("Data preparator", lambda item: item.data_preparation_mlcube),
    ("State", lambda item: item.state.value),
    ("Owner", lambda item: item.owner),
)


@click.group()
def dataset() -> None:
    """See registered datasets."""


@dataset.command()
@mine_option
@format_option
@run_options
@pass_session
def ls(session: Session, /, mine: bool, output: Format) -> None:
    """List datasets."""
    list_entities(session, Dataset, COLUMNS, output, mine=mine, empty="There are no datasets to see.")


@dataset.command()
@click.argument("uid", type=UID)
@format_option
@run_options
@pass_session
def view(session: Session, /, uid: int, output: Format) -> None:
    """Show everything about a dataset's registration."""
    view_entity(session, Dataset, uid, output)
