"""``medperf test``: the compatibility test."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from medperf_core.cli.output import Format, next_step, note, print_data, print_list
from medperf_core.cli.params import FOLDER, UID, UID_OR_PATH, format_option, run_options
from medperf_core.cli.results import print_findings, print_platforms, print_report, print_results
from medperf_core.cli.session import Session, pass_session
from medperf_core.cli.waivers import say_waived
from medperf_core.entities import Container, TestReport
from medperf_core.entities.codec import to_data
from medperf_core.errors import MedperfError
from medperf_core.journeys.compatibility import run_test
from medperf_core.journeys.platforms import require_same, run_test_on
from medperf_core.journeys.strict import require_passed
from medperf_core.site.site import Site

COLUMNS = (
    ("Report", lambda item: item.uid),
    ("Created", lambda item: item.created_at),
    ("Benchmark", lambda item: item.benchmark),
    ("Data preparator", lambda item: item.data_preparator),
    ("Model", lambda item: item.model),
    ("Evaluator", lambda item: item.evaluator),
    ("Platform", lambda item: item.platform),
)


@click.group()
def test() -> None:
    """Test a model, or all of a benchmark, on demo data."""


@test.command()
@click.option("--benchmark", "-b", type=UID, help="UID of the benchmark; it fills in what is not named.")
@click.option(
    "--data-preparation",
    "--data-preparator",
    "-p",
    "data_preparator",
    type=UID_OR_PATH,
    help="Data preparator: UID or path.",
)
@click.option("--model", "-m", type=UID_OR_PATH, help="Model: UID of its container, or path.")
@click.option("--evaluator", "-e", type=UID_OR_PATH, help="Evaluator: UID or path.")
@click.option("--data-path", type=FOLDER, help="Raw data here, instead of the demo dataset.")
@click.option("--labels-path", type=FOLDER, help="Labels of that data.")
@click.option("--demo-dataset-url", metavar="URL", help="Another demo dataset than the benchmark's.")
@click.option("--demo-dataset-hash", metavar="SHA256", help="SHA-256 of that demo dataset.")
@click.option("--no-cache", is_flag=True, help="Run every step anew.")
@click.option("--strict", is_flag=True, help="Also check what breaks on other sites; runs the containers again.")
@click.option("--platforms", metavar="NAME,NAME", help="Run it on each of these platforms and compare them.")
@format_option
@run_options
@pass_session
def run(session: Session, /, no_cache: bool, platforms: str | None, output: Format, **named: Any) -> None:
    """Run the compatibility test. Nothing is sent anywhere."""
    if platforms is not None:
        _run_on(session, [name.strip() for name in platforms.split(",")], output, fresh=no_cache, **named)
        return
    with session.opened() as site:
        report = run_test(site, fresh=no_cache, **named)
        what_next = _next(site, report, named["model"])
    if output is not Format.TABLE:
        print_data(to_data(report), output)
        require_passed(report)
        return
    print_results(report)
    print_findings(report.findings)
    reused = [step.task for step in report.steps if step.reused]
    if reused:
        note(f"Reused from an earlier run with unchanged inputs: {', '.join(reused)}. (--no-cache runs them anew.)")
    say_waived(waiver for step in report.steps for waiver in step.waivers)
    note(f"The test passed. Its report is {report.uid}.")
    require_passed(report)
    next_step(what_next)


def _run_on(session: Session, platforms: list[str], output: Format, **named: Any) -> None:
    with session.opened() as site:
        comparison = run_test_on(site, platforms, **named)
        reports = list(comparison.reports.values())
        what_next = _next(site, reports[0], named["model"])
    if output is not Format.TABLE:
        print_data(to_data(comparison), output)
    else:
        print_platforms(comparison)
        say_waived(waiver for report in reports for step in report.steps for waiver in step.waivers)
    require_same(comparison)
    for report in reports:
        require_passed(report)
    if output is Format.TABLE:
        note(f"The test passed on {' and '.join(comparison.reports)}, with the same results.")
        next_step(what_next)


@test.command()
@format_option
@pass_session
def ls(session: Session, /, output: Format) -> None:
    """List the reports of tests on this machine."""
    with session.opened() as site:
        found = site.records.list()
    for name, reason in found.damaged.items():
        note(f"Warning: {name} is left out. {reason}")
    print_list(found.reports, COLUMNS, output, empty="There are no test reports yet.")


@test.command()
@click.argument("uid", required=False)
@format_option
@pass_session
def view(session: Session, /, uid: str | None, output: Format) -> None:
    """Show the report of a test; without UID, of the newest. JSON and YAML have all of it."""
    with session.opened() as site:
        newest = site.records.list().reports[:1]
        report = site.records.get(uid or (newest[0].uid if newest else ""))
    if output is Format.TABLE:
        print_report(report)
    else:
        print_data(to_data(report), output)


def _next(site: Site, report: TestReport, model: str | None) -> str:
    """The command after a test: to package the user's model, to associate it, or to look at the report."""
    if model is not None and not model.isdigit():
        path = Path(model)
        return f"medperf mlcube package {shlex.quote(str(path.parent if path.is_file() else path))}"
    if model is not None and report.benchmark is not None and _is_own(site, int(model)):
        return f"medperf mlcube associate --benchmark {report.benchmark} --model_uid {model}"
    return f"medperf test view {report.uid}"


def _is_own(site: Site, container: int) -> bool:
    try:
        return site.server.get(Container, container).owner == site.server.me().id
    except MedperfError:
        return False  # the test is done; a server that does not answer now only costs the advice
