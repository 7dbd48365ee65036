"""How a test's report and its results are shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from medperf_core.cli.output import cell
from medperf_core.cli.table import print_table
from medperf_core.entities import Finding, StepRecord, TestReport
from medperf_core.journeys.platforms import PlatformComparison


def print_report(report: TestReport) -> None:
    """What was tested, its steps and its results; statistics and full identities are left to JSON and YAML."""
    rows = [
        ["Report", report.uid],
        ["Created", cell(report.created_at)],
        ["Benchmark", cell(report.benchmark)],
        ["Data preparator", report.data_preparator],
        ["Model", report.model],
        ["Evaluator", report.evaluator],
        ["Data", report.demo_dataset.get("url") or report.demo_dataset.get("data_path", "")],
        ["Prepared data", report.prepared_hash],
        ["Platform", report.platform],
    ]
    print_table(("Test", ""), rows, empty="")
    click.echo()
    print_table(
        ("Step", "Container", "Image", "Seconds", "Reused", "Waived"),
        [_step(step) for step in report.steps],
        empty="There are no steps.",
    )
    click.echo()
    print_results(report)
    print_findings(report.findings)


def print_findings(findings: Sequence[Finding]) -> None:
    """What the checks of a strict test found, and what to change; nothing for any other test."""
    if findings:
        click.echo()
        rows = [[each.check, each.status.value, each.found, each.advice or "nothing"] for each in findings]
        print_table(("Check", "Outcome", "Found", "To change"), rows, empty="", whole=(0, 1))


def _step(step: StepRecord) -> list[str]:
    kind, _, digest = step.images[-1].partition(":sha256:")
    image = f"{kind} {digest[:12]}"
    waived = ", ".join(step.waivers) or "nothing"
    return [step.task, step.container, image, f"{step.seconds:.1f}", "yes" if step.reused else "no", waived]


def print_results(report: TestReport) -> None:
    """The results of a test as a table."""
    print_table(("Result", "Value"), [list(row) for row in flat(report.results)], empty="There are no results.")


def print_platforms(comparison: PlatformComparison) -> None:
    """What a test came to on several platforms, side by side."""
    reports = comparison.reports
    print_table(
        ("", *reports),
        [
            ["Report", *(report.uid for report in reports.values())],
            ["Engine", *(report.steps[-1].engine for report in reports.values())],
            ["Prepared data", *(report.prepared_hash[:12] for report in reports.values())],
            *(
                [f"{step.task}, seconds", *(_seconds(report, step.task) for report in reports.values())]
                for step in next(iter(reports.values())).steps
            ),
        ],
        empty="",
    )
    click.echo()
    values = [dict(flat(report.results)) for report in reports.values()]
    rows = [
        [name, *(each.get(name, "") for each in values)]
        for name in dict.fromkeys(key for each in values for key in each)
    ]
    print_table(("Result", *reports), rows, empty="There are no results.")
    for name, report in reports.items():
        if report.findings:
            click.echo(f"\nOn {name}:", nl=False)
            print_findings(report.findings)


def _seconds(report: TestReport, task: str) -> str:
    return next((f"{step.seconds:.1f}" for step in report.steps if step.task == task), "")


def flat(results: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested results as rows: the path of each value, joined by dots, and the value."""
    for key, value in results.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            yield prefix + str(key), "[" + ", ".join(map(_short, value)) + "]"
        else:
            yield prefix + str(key), _short(value)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else cell(value)
