"""The compatibility test: a model, with a data preparator and an evaluator, on demo data; nothing leaves the site.

Read top to bottom: what takes part, where the data comes from, the five tasks, the report.
"""

from __future__ import annotations

import hashlib
import platform as host
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs

from medperf_core.entities import Benchmark, Model, Role, StepRecord, TestReport
from medperf_core.entities.codec import to_json
from medperf_core.errors import InvalidEntityError, UsageError
from medperf_core.journeys.compare import Tolerance
from medperf_core.journeys.containers import ReadyContainer, require_role, resolve
from medperf_core.journeys.demo_data import DemoData, fetch_demo_data
from medperf_core.journeys.steps import Step, Tested, run_step
from medperf_core.journeys.strict import find
from medperf_core.journeys.tasks import Volume, read_map
from medperf_core.plugin.digest import public_folder_hash
from medperf_core.site.fetch import Origin
from medperf_core.site.site import Site


@attrs.frozen
class Participants:
    """What the user named or, where nothing was named, the benchmark's own."""

    benchmark: Benchmark | None
    data_preparator: str
    model: str
    evaluator: str


def run_test(
    site: Site,
    *,
    benchmark: int | None = None,
    data_preparator: str | None = None,
    model: str | None = None,
    evaluator: str | None = None,
    data_path: Path | None = None,
    labels_path: Path | None = None,
    demo_dataset_url: str | None = None,
    demo_dataset_hash: str | None = None,
    fresh: bool = False,
    strict: bool = False,
) -> TestReport:
    """Run the compatibility test and keep its report.

    Args:
        benchmark: its server UID; fills in what is not named. Without it, all three containers and the data must
            be named, and no server is needed.
        data_preparator, model, evaluator: container UIDs or local paths.
        data_path, labels_path: raw data and labels on this machine, instead of a demo dataset.
        demo_dataset_url, demo_dataset_hash: another demo dataset than the benchmark's.
        fresh: run every step, even if it was done before on unchanged inputs.
        strict: check afterwards what breaks on other sites; see ``medperf_core.journeys.strict``. The containers
            that are named here are run again under other conditions; where none is named, all are. A failed check
            is in the report's findings and raises nothing here: see ``require_passed``.

    Raises:
        UsageError: something is named by nobody.
        MedperfError: whatever kept a step from being done; says which.
    """
    chosen = choose(site, benchmark, data_preparator, model, evaluator)
    tolerance = Tolerance.of(chosen.benchmark) if strict else Tolerance()
    if chosen.benchmark is None and data_path is None and labels_path is None and demo_dataset_url is None:
        raise UsageError(
            "There is no data to test on.",
            hint="Give --data_path and --labels_path, or --demo_dataset_url, or --benchmark.",
        )
    roles = {Role.DATA_PREPARATOR: chosen.data_preparator, Role.MODEL: chosen.model, Role.METRICS: chosen.evaluator}
    for role, ref in roles.items():
        require_role(site, ref, role)
    demo = _demo_data(site, chosen.benchmark, data_path, labels_path, demo_dataset_url, demo_dataset_hash)
    ready = {ref: resolve(site, ref, benchmark) for ref in dict.fromkeys(roles.values())}
    preparator, tested, judge = (ready[ref] for ref in roles.values())

    step = _Stepper(site, chosen.benchmark, fresh)
    prepared = step.prepared(preparator, demo, already=_already_prepared(chosen.benchmark, data_path))
    data, labels = prepared["data_path"], prepared["labels_path"]
    step("sanity_check", preparator, prepared)
    statistics = read_map(step("statistics", preparator, prepared)["output_path"].path, "statistics")
    predictions = step("infer", tested, {"data_path": data})["output_path"]
    results = read_map(
        step("evaluate", judge, {"predictions": predictions, "labels": labels})["output_path"].path, "results"
    )

    findings = []
    if strict:
        named = {ref for ref in (data_preparator, model, evaluator) if ref}
        done = Tested(demo.labels, data, labels, tuple(step.done))
        findings = find(site, done, [each for each in step.done if not named or each.container.ref in named], tolerance)

    now = datetime.now(UTC)
    report = TestReport(
        uid=_uid(now, step.records),
        created_at=now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        benchmark=chosen.benchmark.uid if chosen.benchmark else None,
        data_preparator=chosen.data_preparator,
        model=chosen.model,
        evaluator=chosen.evaluator,
        demo_dataset=demo.source,
        prepared_hash=public_folder_hash([data.path, labels.path]),
        platform=site.effective.platform,
        steps=step.records,
        statistics=statistics,
        results=results,
        versions=versions(site),
        findings=findings,
    )
    site.records.save(report)
    return report


def choose(
    site: Site, benchmark_uid: int | None, data_preparator: str | None, model: str | None, evaluator: str | None
) -> Participants:
    """Fill in from the benchmark what the user did not name; asks the server only if something is missing.

    Raises:
        UsageError: there is nothing to fill in from.
    """
    benchmark = site.server.get(Benchmark, benchmark_uid) if benchmark_uid is not None else None
    if benchmark is None:
        missing = [
            name
            for name, value in (("--data_preparation", data_preparator), ("--model", model), ("--evaluator", evaluator))
            if value is None
        ]
        if missing:
            raise UsageError(f"{' and '.join(missing)} must be given where no --benchmark is.")
        return Participants(None, str(data_preparator), str(model), str(evaluator))
    if model is None:
        reference = site.server.get(Model, benchmark.reference_model)
        if reference.container is None:
            raise InvalidEntityError(
                f"The reference model {reference.uid} of benchmark {benchmark.uid} is not a "
                "container; name another with --model."
            )
        model = str(reference.container.uid)
    return Participants(
        benchmark,
        data_preparator or str(benchmark.data_preparation_mlcube),
        model,
        evaluator or str(benchmark.data_evaluator_mlcube),
    )


def _demo_data(
    site: Site, benchmark: Benchmark | None, data: Path | None, labels: Path | None, url: str | None, sha256: str | None
) -> DemoData:
    if (data is None) != (labels is None):
        raise UsageError("--data_path and --labels_path go together.")
    if data is not None and labels is not None:
        if url:
            raise UsageError("Give either --data_path and --labels_path, or --demo_dataset_url.")
        for path in (data, labels):
            if not path.is_dir():
                raise UsageError(f"There is no folder {path}.")
        site.data_folders.remember((data, labels))
        return DemoData(data.resolve(), labels.resolve(), None, {"data_path": str(data), "labels_path": str(labels)})
    if url:
        return fetch_demo_data(site, url, sha256, Origin.TYPED)
    if benchmark is None:
        raise UsageError("--data_path and --labels_path go together.")
    return fetch_demo_data(
        site, benchmark.demo_dataset_tarball_url, benchmark.demo_dataset_tarball_hash, site.server_origin
    )


def _already_prepared(benchmark: Benchmark | None, data_path: Path | None) -> bool:
    return bool(benchmark and data_path is None and benchmark.metadata.get("demo_dataset_already_prepared"))


class _Stepper:
    """Runs the steps of one test and keeps them and their records in order."""

    def __init__(self, site: Site, benchmark: Benchmark | None, fresh: bool) -> None:
        self._site, self._fresh = site, fresh
        self._benchmark = benchmark.uid if benchmark else None
        self.records: list[StepRecord] = []
        self.done: list[Step] = []

    def __call__(self, task: str, container: ReadyContainer, inputs: Mapping[str, Volume]) -> Mapping[str, Volume]:
        result = run_step(self._site, container, task, inputs, benchmark=self._benchmark, fresh=self._fresh)
        self.records.append(result.record)
        self.done.append(Step(task, container, inputs, result.outputs))
        return result.outputs

    def prepared(self, preparator: ReadyContainer, demo: DemoData, *, already: bool) -> dict[str, Volume]:
        """Prepared data and labels, and the metadata that came with them if any, as later tasks are offered them."""
        digest = self._site.digests.path_digest
        found = {"data_path": Volume.of(demo.data, digest), "labels_path": Volume.of(demo.labels, digest)}
        if already:
            return {**found, "metadata_path": Volume.of(demo.metadata, digest)} if demo.metadata else found
        made = self("prepare", preparator, found)
        outputs = {"output_path": "data_path", "output_labels_path": "labels_path", "metadata_path": "metadata_path"}
        return {offer: made[output] for output, offer in outputs.items() if output in made}


def _uid(now: datetime, steps: list[StepRecord]) -> str:
    """Another one for each test, so that a report that was sent stays as it was."""
    tested = [[step.task, step.images, step.inputs, step.parameters] for step in steps]
    return hashlib.sha256(to_json([now.isoformat(), tested])).hexdigest()[:16]


def versions(site: Site) -> dict[str, str]:
    """Versions of what took part: this program, its plugins, Python, the operating system."""
    found = {
        record.distribution: record.version
        for record in site.plugins.records()
        if record.distribution and record.status == "loaded"
    }
    return {
        **found,
        "medperf-core": version("medperf-core"),
        "python": sys.version.split()[0],
        "system": f"{host.system()} {host.release()} {host.machine()}",
    }


def association_metadata(report: TestReport) -> dict[str, Any]:
    """What of a report goes along with a request for association: results and identities, no paths of this machine."""
    images = {step.task: step.images for step in report.steps}
    return {
        "results": report.results,
        "report": report.uid,
        "platform": report.platform,
        "images": images,
        "waivers": sorted({waiver for step in report.steps for waiver in step.waivers}),
    }
