"""Runs tasks the way the `process` runner does: the commands are taken from the manifests."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medperf_examples import wdbc

Run = Callable[..., "subprocess.CompletedProcess[str]"]
PARTS = ("demo", "hospital_a", "hospital_b")
MODELS = ("model_logreg", "model_mlp")


def raw(part: str) -> tuple[Path, Path]:
    if part == "demo":
        return wdbc.root() / "demo" / "raw", wdbc.root() / "demo" / "labels"
    return wdbc.hospital(part)[1:]


def command(container: str, task: str) -> list[str]:
    manifest = (wdbc.containers()[container] / "mlcube" / "mlcube.yaml").read_text()
    listed = re.search(rf"^    {task}: \[(.*)\]$", manifest, re.MULTILINE)
    assert listed, f"{container} has no process command for {task}"
    return [word.strip('"') for word in listed[1].split(", ")]


def run_task(container: str, task: str, **paths: Path) -> subprocess.CompletedProcess[str]:
    workspace = wdbc.containers()[container] / "mlcube" / "workspace"
    places = {
        "parameters_file": workspace / "parameters.yaml",
        "weights": workspace / "additional_files" / "weights.json",
        **paths,
    }
    words = [word.format_map(places) for word in command(container, task)]
    assert words[0] == "python3"
    project = wdbc.containers()[container] / "project"
    return subprocess.run(
        [sys.executable, "-B", str(project / words[1]), *words[2:]], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def run() -> Run:
    return run_task


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything the four containers make of the three datasets: data, labels, statistics, predictions, results."""
    top = tmp_path_factory.mktemp("chain")
    for part in PARTS:
        out = top / part
        data, labels = raw(part)
        prepared = {"data_path": out / "data", "labels_path": out / "labels"}
        steps = [
            run_task(
                "data_preparator",
                "prepare",
                data_path=data,
                labels_path=labels,
                output_path=out / "data",
                output_labels_path=out / "labels",
            ),
            run_task("data_preparator", "sanity_check", **prepared),
            run_task("data_preparator", "statistics", **prepared, output_path=out / "statistics.yaml"),
        ]
        for model in MODELS:
            steps.append(run_task(model, "infer", data_path=out / "data", output_path=out / model))
            steps.append(
                run_task(
                    "metrics",
                    "evaluate",
                    predictions=out / model,
                    labels=out / "labels",
                    output_path=out / f"{model}.yaml",
                )
            )
        for step in steps:
            assert step.returncode == 0, f"{step.args}: {step.stderr}"
    return top
