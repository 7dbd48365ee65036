"""What ``medperf test run --strict`` checks after a test that passed: what works here and breaks on other sites.

Each check repeats tasks of the test on the same inputs, afresh and under one other condition, or looks at what the
test has left. A repeated task's outputs are compared and thrown away.
"""

from __future__ import annotations

import hashlib
import platform as host
import secrets
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs

from medperf_core.entities import Finding, FindingStatus, TestReport
from medperf_core.errors import CheckFailedError, ExecutionError
from medperf_core.journeys.compare import Tolerance, differences
from medperf_core.journeys.steps import Step, Tested, perform
from medperf_core.journeys.tasks import Volume, read_map
from medperf_core.plugin.digest import file_digest, tree_entries
from medperf_core.plugin.events import StepFinished, StepStarted
from medperf_core.plugin.isolation import Capabilities, Condition, Guarantee
from medperf_core.plugin.runner import Gpus, TaskRequest
from medperf_core.site.site import Site

TMP_BYTES = 16 << 20
SIZE_BYTES = 10 << 30
ARCHITECTURE = "amd64"
ELSEWHERE = "/dev"
"""A folder that every container has, that holds nothing of the image and that a task cannot write."""
SHOWN = 20
"""Differences, or label files, that a finding lists."""
PASSED, FAILED, NOT_CHECKED = FindingStatus.PASSED, FindingStatus.FAILED, FindingStatus.NOT_CHECKED
ENGINE = "Run the test on a container engine, such as --platform docker."
EMPTY = f"sha256:{hashlib.sha256().hexdigest()}"
"""Digest of a folder without files."""
Outputs = Mapping[str, Volume]


def find(site: Site, tested: Tested, steps: Sequence[Step], tolerance: Tolerance) -> list[Finding]:
    """All checks, in the order of the report.

    Args:
        tested: the test.
        steps: those of its steps whose containers are checked.
        tolerance: what the benchmark grants when two runs are compared.

    Raises:
        MedperfError: what is not a matter of the containers, such as a policy that says no.
    """
    capabilities = site.capabilities
    repeat = _Repeat(site)
    return [
        _labels(tested),
        _architecture(steps),
        _size(steps),
        *(_vary(each, steps, repeat, capabilities) for each in _variations()),
        _without_gpu(site, steps, repeat, capabilities),
        _twice(tested, steps, repeat, tolerance),
    ]


def require_passed(report: TestReport) -> None:
    """Raise if a check of a strict test failed.

    Raises:
        CheckFailedError: names the checks that did.
    """
    failed = [finding.check for finding in report.findings if finding.status is FAILED]
    if failed:
        raise CheckFailedError(
            f"The test passed here, but {len(failed)} of {len(report.findings)} strict checks failed: "
            f"{', '.join(failed)}.",
            hint=f"What was found and what to change: medperf test view {report.uid}",
        )


@attrs.frozen
class _Variation:
    """Another condition for a task.

    Attributes:
        check: name of the check.
        how: how the task runs then, after "run".
        needs: what the runner must be able to do; None for nothing.
        change: makes the request.
        advice: what to change where a task fails.
        elsewhere: what to do where the runner cannot.
    """

    check: str
    how: str
    needs: Condition | None
    change: Callable[[TaskRequest], TaskRequest]
    advice: str
    elsewhere: str = ENGINE


def _variations() -> Iterator[_Variation]:
    # beyond the accounts that systems and people have, below the 65,536 that a user namespace usually holds
    user = f"{20_000 + secrets.randbelow(40_000)}:{20_000 + secrets.randbelow(40_000)}"
    yield _Variation(
        "user",
        f"as user {user}",
        Condition.USER,
        lambda request: attrs.evolve(request, user=user),
        "Let everyone read what the image holds (chmod -R a+rX), write only to the outputs and /tmp, and do not look "
        "up the user's name or home: another site's user has neither.",
        "Run the test as root, as in CI, on Docker or Singularity: only root can hand outputs over to another user.",
    )
    yield _Variation(
        "tmp",
        f"with {TMP_BYTES >> 20} MiB of /tmp",
        Condition.TMP_SIZE,
        lambda request: attrs.evolve(request, resources=attrs.evolve(request.resources, tmp_size=TMP_BYTES)),
        "Keep large intermediate files in memory or below an output; on other sites /tmp, and with it the home and "
        "its caches, may hold little.",
    )
    yield _Variation(
        "working-dir",
        f"in the working directory {ELSEWHERE}",
        Condition.WORKING_DIR,
        lambda request: attrs.evolve(request, working_dir=ELSEWHERE),
        "Use absolute paths in the entrypoint and find files beside the program (in Python by __file__): "
        "other engines do not start in the image's WORKDIR.",
    )


class _Repeat:
    """Runs a step of the test again, as it was permitted; the outputs are there while they are looked at."""

    def __init__(self, site: Site) -> None:
        self._site = site

    @contextmanager
    def __call__(
        self, step: Step, how: str, change: Callable[[TaskRequest], TaskRequest] | None = None
    ) -> Iterator[Outputs]:
        what = f"{step.name}, {how}"
        self._site.emit(StepStarted(what))
        folder = self._site.temp / f"strict-{uuid.uuid4().hex}"
        try:
            try:
                outcome, outputs = perform(self._site, step.container, step.task, step.inputs, folder, change=change)
            except ExecutionError:
                self._site.emit(StepFinished(what, "failed"))
                raise
            self._site.emit(StepFinished(what, f"{outcome.seconds:.1f} s"))
            yield outputs
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _vary(variation: _Variation, steps: Sequence[Step], repeat: _Repeat, capabilities: Capabilities) -> Finding:
    if variation.needs is not None and variation.needs not in capabilities.conditions:
        said = f"{capabilities.engine}, as it is used here, cannot run a task {variation.how}."
        return Finding(variation.check, NOT_CHECKED, said, variation.elsewhere)
    problems = []
    for step in steps:
        try:
            with repeat(step, variation.how, variation.change) as outputs:
                problems += [
                    f"{step.name} ended well but left its output {offer} empty."
                    for offer, volume in outputs.items()
                    if volume.digest == EMPTY and step.outputs[offer].digest != EMPTY
                ]
        except ExecutionError as error:
            problems.append(_brief(error))
    if problems:
        return Finding(variation.check, FAILED, _lines(f"Run {variation.how}:", problems), variation.advice)
    return Finding(variation.check, PASSED, _lines(f"Run {variation.how}:", [step.name for step in steps]))


def _without_gpu(site: Site, steps: Sequence[Step], repeat: _Repeat, capabilities: Capabilities) -> Finding:
    found = Finding("gpu", PASSED, "The test itself ran without GPU.")
    if site.effective.gpus:
        variation = _Variation(
            "gpu",
            "without GPU",
            None,
            lambda request: attrs.evolve(request, resources=attrs.evolve(request.resources, gpus=Gpus())),
            "Choose the device when the program starts, and fall back to the CPU where there is no GPU.",
        )
        found = _vary(variation, steps, repeat, capabilities)
    if found.status is PASSED and Guarantee.MOUNTS not in capabilities.guarantees:
        said = "No GPU was given, but nothing kept the programs from those of this machine."
        return Finding("gpu", NOT_CHECKED, said, ENGINE)
    return found


def _twice(tested: Tested, steps: Sequence[Step], repeat: _Repeat, tolerance: Tolerance) -> Finding:
    problems: list[str] = []
    passed: list[str] = []
    for step in steps:
        try:
            with repeat(step, "a second time") as outputs:
                found, note = _compare(tested, step, outputs, repeat, tolerance)
        except ExecutionError as error:
            found, note = [_brief(error)], ""
        problems += [f"{step.name}: {line}" for line in found]
        passed += [f"{step.name}: {note}"] if note and not found else []
    if problems:
        return Finding(
            "twice",
            FAILED,
            _lines("A second run on the same inputs came out differently:", problems),
            "Fix the seeds of random numbers, ask the libraries for deterministic algorithms, sort what is read from "
            "folders, and write no times; or have the benchmark grant a tolerance.",
        )
    return Finding("twice", PASSED, _lines("A second run on the same inputs came out the same:", passed))


def _compare(
    tested: Tested, step: Step, outputs: Outputs, repeat: _Repeat, tolerance: Tolerance
) -> tuple[list[str], str]:
    """How a step's outputs differ from those of the test, and in which way they agree where they do."""
    changed = [offer for offer in outputs if outputs[offer].digest != step.outputs[offer].digest]
    if step.task in ("statistics", "evaluate"):
        first, second = (read_map(each["output_path"].path, step.task) for each in (step.outputs, outputs))
        agree = "the same values within the tolerance" if "output_path" in changed else "byte for byte the same"
        return list(differences(first, second, tolerance)), agree
    if step.task == "infer":
        if not changed:
            return [], "the predictions are byte for byte the same"
        judge = tested.step("evaluate")
        again = attrs.evolve(judge, inputs={**judge.inputs, "predictions": outputs["output_path"]})
        with repeat(again, "on the second predictions") as results:
            first, second = (read_map(each["output_path"].path, "results") for each in (judge.outputs, results))
        return list(differences(first, second, tolerance)), "the predictions differ, their results within tolerance"
    # a data preparator's records of its work may differ; what it prepared is what a dataset is known by
    prepared = [offer for offer in changed if offer in ("output_path", "output_labels_path")]
    problems = [f"{offer}/{name}" for offer in prepared for name in _changed(step.outputs[offer], outputs[offer])]
    return problems, "byte for byte the same" if outputs else ""


def _labels(tested: Tested) -> Finding:
    """Label files among what the model sees, by their SHA-256; names play no part."""
    known: dict[str, str] = {}
    sizes = set()
    for where, root in (("the prepared labels", tested.labels.path), ("the raw labels", tested.raw_labels)):
        for entry in tree_entries(root):
            if entry.size:
                sizes.add(entry.size)
                known.setdefault(file_digest(entry.absolute), f"{entry.path} of {where}")
    hits = [
        f"{entry.path} is {label}"
        for entry in tree_entries(tested.data.path)
        if entry.size in sizes and (label := known.get(file_digest(entry.absolute)))
    ]
    if not hits:
        return Finding("labels", PASSED, "No file of the prepared data is a label file.")
    advice = "The data preparator must write labels to output_labels_path only: here a model can read the answers."
    return Finding("labels", FAILED, _lines("The prepared data holds label files:", hits), advice)


def _architecture(steps: Sequence[Step]) -> Finding:
    built = {step.container.name or step.container.ref: step.container.image.architecture for step in steps}
    if not all(built.values()):
        return Finding("architecture", NOT_CHECKED, "The runner does not know for what machines this is made.", ENGINE)
    said = _lines(f"This machine is {host.machine()}.", [f"{name}: {found}" for name, found in built.items()])
    if all(architecture == ARCHITECTURE for architecture in built.values()):
        return Finding("architecture", PASSED, said)
    advice = f"Most sites have {ARCHITECTURE} machines: build with --platform linux/{ARCHITECTURE}."
    return Finding("architecture", FAILED, said, advice)


def _size(steps: Sequence[Step]) -> Finding:
    sizes = {step.container.name or step.container.ref: step.container.image.size for step in steps}
    known = [f"{name}: {size} bytes ({size / (1 << 30):.2f} GiB)" for name, size in sizes.items() if size]
    if len(known) < len(sizes):
        return Finding("size", NOT_CHECKED, "The runner does not know the image's size.", ENGINE)
    large = any(size and size > SIZE_BYTES for size in sizes.values())
    advice = f"More than {SIZE_BYTES >> 30} GiB keep sites waiting: use a smaller base image and leave out build tools."
    return Finding("size", PASSED, "\n".join(known), advice if large else "")


def _changed(first: Volume, second: Volume) -> list[str]:
    """Names of the files that are not the same in both folders."""
    said = [
        {entry.path: entry.link or file_digest(entry.absolute) for entry in tree_entries(volume.path)}
        for volume in (first, second)
    ]
    return sorted(name for name in {**said[0], **said[1]} if said[0].get(name) != said[1].get(name))


def _brief(error: ExecutionError) -> str:
    """An error in at most three lines: what failed, the task's last line, and where its log is."""
    first, *rest = error.message.splitlines()
    return "\n".join(line.strip()[:400] for line in (first, *rest[-2:]))


def _lines(head: str, lines: Sequence[str]) -> str:
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join((head, *lines[:SHOWN], *more))
