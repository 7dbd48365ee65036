"""Packaging: what is written, the same bytes everywhere, everything wrong said at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml
from medperf_examples import wdbc

from medperf_core import Site
from medperf_core.entities import Role
from medperf_core.errors import InvalidEntityError, UsageError
from medperf_core.journeys.package import package
from medperf_core.plugin import Event, Notice
from medperf_core.plugin.digest import file_digest


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.open(tmp_path / "home")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copytree(wdbc.containers()["model_logreg"], tmp_path / "model")
    return tmp_path / "model" / "mlcube"


def test_the_package_and_its_index(site: Site, model: Path) -> None:
    made = package(site, model)
    assert made.folder == model / "deploy"
    assert made.role is Role.MODEL
    names = {"mlcube.yaml", "parameters.yaml", "additional_files.tar.gz", "project.tar.gz", "manifest.json"}
    assert {path.name for path in made.folder.iterdir()} == names
    index = json.loads((made.folder / "manifest.json").read_text())
    for entry in index["files"]:
        path = made.folder / entry["name"]
        assert (entry["size"], entry["sha256"]) == (path.stat().st_size, file_digest(path))
        if entry["tar_sha256"]:
            import gzip

            assert hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest() == entry["tar_sha256"]
    assert index["images"][0].startswith("source:sha256:")
    with tarfile.open(made.folder / "project.tar.gz") as tar:
        assert "main.py" in tar.getnames() and not any("__pycache__" in name for name in tar.getnames())


def test_b18_the_same_input_gives_the_same_bytes_on_another_day_and_place(
    site: Site, model: Path, tmp_path: Path
) -> None:
    first = {item.name: item.sha256 for item in package(site, model).files}
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(model.parent, elsewhere, ignore=shutil.ignore_patterns("deploy"))
    for path in sorted(elsewhere.rglob("*"), reverse=True):
        os.utime(path, (1, 1))
        path.chmod(0o700 if path.is_dir() else 0o600)
    second = {item.name: item.sha256 for item in package(site, elsewhere / "mlcube").files}
    assert first == second


def test_packaging_again_replaces_the_package(site: Site, model: Path) -> None:
    package(site, model)
    (model / "workspace" / "parameters.yaml").unlink()
    (model / "mlcube.yaml").write_text(
        (model / "mlcube.yaml")
        .read_text()
        .replace("        parameters_file: parameters.yaml\n", "")
        .replace('"--parameters_file={parameters_file}", ', "")
    )
    package(site, model)
    assert {path.name for path in (model / "deploy").iterdir()} == {
        "mlcube.yaml",
        "additional_files.tar.gz",
        "project.tar.gz",
        "manifest.json",
    }


def test_a_folder_with_other_files_is_not_replaced(site: Site, model: Path) -> None:
    (model / "deploy").mkdir()
    (model / "deploy" / "precious").write_text("x")
    for index in (None, "{}", '{"files": []}'):
        if index is not None:
            (model / "deploy" / "manifest.json").write_text(index)
        with pytest.raises(UsageError, match="not made by packaging"):
            package(site, model)
        assert (model / "deploy" / "precious").read_text() == "x"


@pytest.mark.parametrize("content", ["", "# nothing yet\n"])
def test_parameters_that_are_none_are_warned_of(model: Path, tmp_path: Path, content: str) -> None:
    told: list[Event] = []
    site = Site.open(tmp_path / "home", on_event=told.append)
    package(site, model)
    assert not [each for each in told if isinstance(each, Notice)]
    (model / "workspace" / "parameters.yaml").write_text(content)
    package(site, model)
    [notice] = [each for each in told if isinstance(each, Notice)]
    assert notice.level == "warning" and "parameters.yaml holds nothing" in notice.message


@pytest.mark.parametrize("name", ["parameters.yaml", "manifest.json"])
def test_a_manifest_called_like_another_file_is_refused(site: Site, model: Path, name: str) -> None:
    (model / "mlcube.yaml").rename(model / name)
    with pytest.raises(InvalidEntityError, match="rename it"):
        package(site, model / name)


def test_everything_wrong_is_said_at_once_and_nothing_is_written(site: Site, model: Path) -> None:
    (model / "workspace" / "parameters.yaml").write_text("- a\n- list\n")
    (model / "workspace" / "additional_files" / "weights.json").unlink()
    with pytest.raises(InvalidEntityError) as caught:
        package(site, model, Role.METRICS)
    problems = " | ".join(caught.value.problems)
    assert "evaluate" in problems and "must be a map" in problems and "weights.json" in problems
    assert not (model / "deploy").exists()
    assert not list(model.glob(".deploy*"))


@pytest.mark.parametrize(
    ("name", "role"), [("data_preparator", Role.DATA_PREPARATOR), ("metrics", Role.METRICS), ("model_mlp", Role.MODEL)]
)
def test_roles_are_found(site: Site, tmp_path: Path, name: str, role: Role) -> None:
    shutil.copytree(wdbc.containers()[name], tmp_path / name)
    assert package(site, tmp_path / name / "mlcube").role is role
    assert package(site, tmp_path / name / "mlcube", role, tmp_path / "out").folder == tmp_path / "out"


def test_a_container_config_is_packaged_under_its_name(site: Site, tmp_path: Path) -> None:
    shutil.copytree(wdbc.containers()["model_logreg"], tmp_path / "model")
    made = package(site, tmp_path / "model" / "container_config.yaml", output=tmp_path / "out")
    assert "container_config.yaml" in {item.name for item in made.files}


@pytest.mark.parametrize(
    ("section", "name"),
    [({"docker": {"tar_file": "image.tar"}}, "image.tar"), ({"singularity": {"image": "a.sif"}}, "a.sif")],
)
def test_an_image_file_is_told_and_not_copied(
    site: Site, model: Path, section: dict[str, dict[str, str]], name: str
) -> None:
    manifest = yaml.safe_load((model / "mlcube.yaml").read_text())
    del manifest["process"], manifest["docker"]
    (model / "mlcube.yaml").write_text(yaml.safe_dump({**manifest, **section}))
    (model / "workspace" / ".image").mkdir()
    (model / "workspace" / ".image" / name).write_bytes(b"an image")
    made = package(site, model)
    assert made.image_file == model / "workspace" / ".image" / name
    assert name not in {path.name for path in made.folder.iterdir()}


def test_a_project_s_package_needs_no_image_file(site: Site, model: Path) -> None:
    assert package(site, model).image_file is None
