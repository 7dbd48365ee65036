"""The record of a compatibility test: what ran, on what, where, and what came out."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import attrs

from medperf_core.entities import checks


@attrs.frozen(kw_only=True)
class StepRecord:
    """One task of a test.

    Attributes:
        task: such as ``infer``.
        container: what the user called the container (a UID or a path) and its name.
        images: identities of what ran, as ``KIND:sha256:HEX``.
        inputs: for each volume that the task read, its label and path-aware SHA-256.
        parameters: SHA-256 of the parameters file; "" if there was none.
        engine: the engine's name and version.
        waivers: the guarantees that the site waived for this step.
        limits: for each limit, who held it (``engine``, ``polled``) and its value.
        started: UTC, ISO 8601; of the run whose outputs are used.
        seconds: wall-clock time of that run.
        peak_memory: bytes; None if it was not measured.
        reused: true if the outputs are of an earlier run with unchanged inputs.
        bundle: the bundle that brought the container: SHA-256 of its index (``bundle``), fingerprint of its ``maker``
            or ``not signed``, and when it was ``made``; empty if it came from a server or a folder.
    """

    task: str
    container: str
    images: list[str]
    inputs: dict[str, str]
    parameters: str = ""
    engine: str = ""
    waivers: list[str] = attrs.field(factory=list)
    limits: dict[str, str] = attrs.field(factory=dict)
    started: str = ""
    seconds: float = 0.0
    peak_memory: int | None = None
    reused: bool = False
    bundle: dict[str, str] = attrs.field(factory=dict)


class FindingStatus(StrEnum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CHECKED = "not-checked"
    """This machine or runner cannot tell; the finding says why."""


@attrs.frozen
class Finding:
    """What one check of a strict test found.

    Attributes:
        check: its name, such as ``user``.
        status: what came of it.
        found: what was done and seen; may have several lines.
        advice: what to change; "" where there is nothing to change.
    """

    check: str
    status: FindingStatus = attrs.field(converter=FindingStatus)
    found: str
    advice: str = ""


@attrs.frozen(kw_only=True)
class TestReport:
    """A compatibility test's report. Kept on this machine; its results go along with a request for association.

    Attributes:
        uid: 16 hexadecimal digits, of the SHA-256 over what was tested and when.
        created_at: UTC, ISO 8601.
        benchmark: benchmark UID; None for a fully local test.
        data_preparator, model, evaluator: what the user named: a server UID or a local path.
        demo_dataset: where the data came from, with its SHA-256 under ``hash``.
        prepared_hash: public folder hash of the prepared data and labels (``generated_uid``).
        statistics: what the ``statistics`` task wrote.
        results: what the ``evaluate`` task wrote.
        versions: of this program, its plugins, Python and the operating system.
        platform: the runner's name.
        findings: of the checks of a strict test; empty for any other.
    """

    __test__ = False  # its name makes pytest look at it

    uid: str
    created_at: str
    benchmark: int | None
    data_preparator: str
    model: str
    evaluator: str
    demo_dataset: dict[str, str]
    prepared_hash: str
    platform: str
    steps: list[StepRecord]
    statistics: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)
    results: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)
    versions: dict[str, str] = attrs.field(factory=dict)
    findings: list[Finding] = attrs.field(factory=list)
