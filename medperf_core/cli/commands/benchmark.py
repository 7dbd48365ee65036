"""``medperf benchmark``."""

from __future__ import annotations

import click

from medperf_core.cli.output import Format
from medperf_core.cli.params import UID, format_option, mine_option, run_options
from medperf_core.cli.registry import list_entities, view_entity
from medperf_core.cli.session import Session, pass_session
from medperf_core.entities import Benchmark

COLUMNS = (
    ("UID", lambda item: item.id),
    ("Name", lambda item: item.name),
    ("Description", lambda item: item.description),
    ("Data preparator", lambda item: item.data_preparation_mlcube),
    ("Reference model", lambda item: item.reference_model),
    ("Evaluator", lambda item: item.data_evaluator_mlcube),
    ("State", lambda item: item.state.value),
    ("Approval", lambda item: item.approval_status.value),
)


@click.group()
def benchmark() -> None:
    """See benchmarks."""


@benchmark.command()
@mine_option
@format_option
@run_options
@pass_session
def ls(session: Session, /, mine: bool, output: Format) -> None:
    """List benchmarks."""
    list_entities(session, Benchmark, COLUMNS, output, mine=mine, empty="There are no benchmarks to see.")


@benchmark.command()
@click.argument("uid", type=UID)
@format_option
@run_options
@pass_session
def view(session: Session, /, uid: int, output: Format) -> None:
    """Show everything about a benchmark."""
    view_entity(session, Benchmark, uid, output)
