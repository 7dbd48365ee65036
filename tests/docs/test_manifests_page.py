"""The page of manifests: its table of volumes is the core's, its examples are read, its package is what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from medperf_examples import wdbc

from medperf_core import Site
from medperf_core.entities.roles import COMMON_VOLUMES, TASKS, Role
from medperf_core.journeys.containers import packager_for
from medperf_core.journeys.package import package
from medperf_core.plugin.manifest import manifest_from_data
from medperf_core.plugin.role_check import check_role

from .pages import DOCS, blocks, prose, rows

PAGE = DOCS / "reference" / "manifests.md"
MANIFESTS = [block for block in blocks(PAGE, "yaml") if "tasks:" in block.text]


def test_the_table_of_volumes_is_the_table_of_the_core() -> None:
    of_the_core = [
        [
            role.value,
            task,
            rule.label,
            rule.kind.value,
            "output" if rule.writable else "input",
            "yes" if rule.required else "no",
        ]
        for role, tasks in TASKS.items()
        for task, volumes in tasks.items()
        for rule in volumes
    ]
    assert rows(PAGE, "role") == of_the_core


def test_the_volumes_of_every_task_are_named() -> None:
    (sentence,) = (line for line in prose(PAGE).splitlines() if line.startswith("Every task may also read"))
    assert all(
        f"`{rule.label}` (a {'file' if rule.kind == 'file' else 'folder'})" in sentence for rule in COMMON_VOLUMES
    )


def test_there_is_an_example_of_each_format() -> None:
    assert len(MANIFESTS) == 2


@pytest.mark.parametrize("number", range(len(MANIFESTS)))
def test_each_example_is_a_model_that_is_read_without_a_warning(number: int, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "Dockerfile").write_text("FROM scratch\n")
    with Site.open(tmp_path / "home", environment={}) as site:
        manifest = manifest_from_data(yaml.safe_load(MANIFESTS[number].text), "the page", project=project)
        spec = packager_for(site, manifest).read(manifest)
    assert check_role(spec, Role.MODEL) == []
    assert spec.notes == ()


def test_the_package_holds_the_files_of_the_table_and_the_index_of_the_example(tmp_path: Path) -> None:
    (example,) = (json.loads(block.text) for block in blocks(PAGE, "json"))
    with Site.open(tmp_path / "home", environment={}) as site:
        made = package(site, wdbc.containers()["model_mlp"] / "mlcube", output=tmp_path / "deploy")
    written = json.loads((made.folder / "manifest.json").read_text())
    assert example.keys() == written.keys()
    assert example["files"][0].keys() == written["files"][0].keys()
    documented = {name.split("` or `")[0].strip("`") for name, *_ in rows(PAGE, "file")}
    assert {file.name for file in made.folder.iterdir()} == documented


def test_the_example_of_paths_is_that_of_the_demo_dataset(tmp_path: Path) -> None:
    from medperf_core.site.archive import unpack

    archive = wdbc.write_demo_dataset(tmp_path)
    unpack(archive, tmp_path / "demo")
    example = next(block.text for block in blocks(PAGE, "yaml") if "labels_path: labels" in block.text)
    assert yaml.safe_load(example) == yaml.safe_load((tmp_path / "demo" / "paths.yaml").read_text())
