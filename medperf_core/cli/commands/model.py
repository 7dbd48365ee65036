"""``medperf model``: models by their own UIDs; ``medperf mlcube`` speaks of the containers that they wrap."""

from __future__ import annotations

import click

from medperf_core.cli.associations import say_asked
from medperf_core.cli.output import Format
from medperf_core.cli.params import UID, format_option, mine_option, run_options, yes_option
from medperf_core.cli.registry import list_entities, view_entity
from medperf_core.cli.results import print_results
from medperf_core.cli.session import Session, pass_session
from medperf_core.entities import Model
from medperf_core.journeys.associate import associate as ask

COLUMNS = (
    ("UID", lambda item: item.id),
    ("Name", lambda item: item.name),
    ("Type", lambda item: item.type.value),
    ("MLCube UID", lambda item: item.container.id if item.container else None),
    ("State", lambda item: item.state.value),
    ("Owner", lambda item: item.owner),
)


@click.group()
def model() -> None:
    """See models and associate them with benchmarks."""


@model.command()
@mine_option
@format_option
@run_options
@pass_session
def ls(session: Session, /, mine: bool, output: Format) -> None:
    """List models."""
    list_entities(session, Model, COLUMNS, output, mine=mine, empty="There are no models to see.")


@model.command()
@click.argument("uid", type=UID)
@format_option
@run_options
@pass_session
def view(session: Session, /, uid: int, output: Format) -> None:
    """Show everything about a model."""
    view_entity(session, Model, uid, output)


@model.command()
@click.option("--benchmark", "-b", type=UID, required=True, help="UID of the benchmark.")
@click.option("--model-uid", "-m", "uid", type=UID, required=True, help="UID of the model.")
@click.option("--no-cache", is_flag=True, help="Run every step of the test anew.")
@yes_option
@run_options
@pass_session
def associate(session: Session, /, benchmark: int, uid: int, no_cache: bool, yes: bool) -> None:
    """Test a model on a benchmark's demo data and ask that it takes part."""
    with session.opened(yes=yes) as site:
        made = ask(site, benchmark=benchmark, model=uid, fresh=no_cache, show=print_results)
    say_asked(made)
