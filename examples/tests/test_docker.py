"""Base image and all four images under a real engine, with everything taken away that can be."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engines import require

from medperf_examples import base_image, wdbc

PREFIX = f"medperf-examples-test-{os.getpid()}"
CONTAINERS = list(wdbc.containers())


def docker(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0 or not check, done.stderr
    return done


@pytest.fixture(scope="module")
def engine() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", require("docker")["DOCKER_HOST"])
        yield


@pytest.fixture(scope="module")
def images(engine: None) -> Iterator[dict[str, str]]:
    base = f"{PREFIX}/base:1"
    tags = {name: f"{PREFIX}/{name}:1" for name in CONTAINERS}
    try:
        assert base_image.main([base]) == 0
        assert base_image.main([base]) == 0
        for name, tag in tags.items():
            project = wdbc.containers()[name] / "project"
            docker("build", "--network", "none", "--build-arg", f"BASE_IMAGE={base}", "-t", tag, str(project))
        yield {"base": base, **tags}
    finally:
        docker("image", "rm", "--force", *tags.values(), base, check=False)


def run(image: str, task: str, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    words = ["run", "--rm", "--network", "none", "--read-only", "--user", "12345", "--cap-drop", "ALL"]
    words += ["--tmpfs", "/tmp:size=1m", "--workdir", "/proc"]
    arguments = []
    for name, path in inputs.items():
        words += ["-v", f"{path}:/in/{name}:ro"]
        arguments.append(f"--{name}=/in/{name}")
    for name, path in outputs.items():
        folder = path.parent if path.suffix else path
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        words += ["-v", f"{folder}:/out/{name}"]
        arguments.append(f"--{name}=/out/{name}" + (f"/{path.name}" if path.suffix else ""))
    docker(*words, image, task, *arguments)


def test_base_image_runs_python(images: dict[str, str]) -> None:
    docker(
        *("run", "--rm", "--network", "none", "--read-only", "--user", "12345", images["base"]),
        *("python3", "-c", "import ssl, ctypes, json, hashlib, zlib"),
    )


def test_chain_gives_the_same_bytes_as_without_containers(images: dict[str, str], chain: Path, tmp_path: Path) -> None:
    hospital = wdbc.hospital("hospital_b")
    spaces = {name: folder / "mlcube" / "workspace" for name, folder in wdbc.containers().items()}
    settings = {name: {"parameters_file": space / "parameters.yaml"} for name, space in spaces.items()}
    preparator = images["data_preparator"]
    raw = {"data_path": hospital.data_path, "labels_path": hospital.labels_path, **settings["data_preparator"]}
    data, labels = tmp_path / "data", tmp_path / "labels"
    prepared = {"data_path": data, "labels_path": labels, **settings["data_preparator"]}
    run(preparator, "prepare", raw, {"output_path": data, "output_labels_path": labels})
    run(preparator, "sanity_check", prepared, {})
    run(preparator, "statistics", prepared, {"output_path": tmp_path / "s" / "statistics.yaml"})
    for model in ("model_logreg", "model_mlp"):
        weights = spaces[model] / "additional_files" / "weights.json"
        run(
            images[model],
            "infer",
            {"data_path": data, "weights": weights, **settings[model]},
            {"output_path": tmp_path / model},
        )
        given = {"predictions": tmp_path / model, "labels": labels, **settings["metrics"]}
        run(images["metrics"], "evaluate", given, {"output_path": tmp_path / f"r-{model}" / "results.yaml"})
        expected = (chain / "hospital_b" / f"{model}.yaml").read_bytes()
        assert (tmp_path / f"r-{model}" / "results.yaml").read_bytes() == expected
    assert (tmp_path / "s" / "statistics.yaml").read_bytes() == (chain / "hospital_b/statistics.yaml").read_bytes()
