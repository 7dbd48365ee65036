"""``medperf association``: requests to take part in benchmarks, and their answers."""

from __future__ import annotations

from typing import Any

import attrs
import click

from medperf_core.cli.associations import say_answered
from medperf_core.cli.output import Format, print_list
from medperf_core.cli.params import UID, format_option, run_options, yes_option
from medperf_core.cli.session import Session, pass_session
from medperf_core.entities import Approval, Association, Model
from medperf_core.entities.codec import to_data
from medperf_core.errors import MedperfError, UsageError
from medperf_core.journeys.associate import answer
from medperf_core.plugin.server import Party
from medperf_core.site.site import Site

STATUSES = [item.value for item in Approval]
COLUMNS = (
    ("Benchmark", lambda row: row.item.benchmark),
    ("With", lambda row: "model" if row.item.model is not None else "dataset"),
    ("UID", lambda row: row.item.model if row.item.model is not None else row.item.dataset),
    ("MLCube UID", lambda row: row.mlcube),
    ("Name", lambda row: row.name),
    ("Status", lambda row: row.item.approval_status.value),
    ("Asked by", lambda row: row.item.initiated_by),
    ("Asked at", lambda row: row.item.created_at),
)


@attrs.frozen
class Row:
    """An association, with the container and the name of its model, so that people find their own words again.

    Attributes:
        mlcube: UID of the container.
        name: of the model.
    """

    item: Association
    mlcube: int | None = None
    name: str | None = None


@click.group()
def association() -> None:
    """See and answer requests to take part in benchmarks."""


@association.command()
@click.argument("status", required=False, type=click.Choice(STATUSES, case_sensitive=False))
@click.option(
    "--approval-status",
    "wanted",
    type=click.Choice(STATUSES, case_sensitive=False),
    help="The same as the argument STATUS.",
)
@click.option("--benchmark", "-b", type=UID, help="Only those with this benchmark.")
@format_option
@run_options
@pass_session
def ls(session: Session, /, status: str | None, wanted: str | None, benchmark: int | None, output: Format) -> None:
    """List the latest association of each pair that the logged-in user has a part in."""
    chosen = status or wanted
    with session.opened() as site:
        found = [
            item
            for side in Party
            for item in site.server.associations(side, benchmark=benchmark)
            if chosen is None or item.approval_status.value == chosen.upper()
        ]
        rows = _named(site, found)
    print_list(rows, COLUMNS, output, empty="There are no associations to see.", whole=(0, 2, 3), data=_data)


def _answer_options(command: Any) -> Any:
    command = click.option("--dataset", "-d", type=UID, help="UID of the dataset.")(command)
    command = click.option("--model", type=UID, help="UID of the model.")(command)
    command = click.option("--mlcube", "--container", "-m", type=UID, help="UID of the model's container.")(command)
    command = click.option("--benchmark", "-b", type=UID, required=True, help="UID of the benchmark.")(command)
    return yes_option(run_options(command))


@association.command()
@_answer_options
@pass_session
def approve(session: Session, /, yes: bool, **named: int | None) -> None:
    """Approve a pending association."""
    _send(session, True, yes, **named)


@association.command()
@_answer_options
@pass_session
def reject(session: Session, /, yes: bool, **named: int | None) -> None:
    """Reject a pending association."""
    _send(session, False, yes, **named)


def _send(
    session: Session,
    /,
    approve: bool,
    yes: bool,
    *,
    benchmark: int | None,
    mlcube: int | None,
    model: int | None,
    dataset: int | None,
) -> None:
    if sum(uid is not None for uid in (mlcube, model, dataset)) != 1 or benchmark is None:
        raise UsageError("Name one model or dataset.", hint="Give one of --mlcube, --model and --dataset.")
    with session.opened(yes=yes) as site:
        done = answer(site, approve=approve, benchmark=benchmark, container=mlcube, model=model, dataset=dataset)
    say_answered(done)


def _named(site: Site, found: list[Association]) -> list[Row]:
    models: dict[int, Model | None] = {}
    for item in found:
        if item.model is not None and item.model not in models:
            try:
                models[item.model] = site.server.get(Model, item.model)
            except MedperfError:
                models[item.model] = None  # its owner withdrew it or this user may not see it: list it without a name
    rows = []
    for item in found:
        known = models.get(item.model) if item.model is not None else None
        rows.append(Row(item, known.container.id if known and known.container else None, known.name if known else None))
    return rows


def _data(row: Row) -> Any:
    return {**to_data(row.item), "mlcube": row.mlcube, "model_name": row.name}
