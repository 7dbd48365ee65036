"""The package's few functions, and that manifests, images and code agree."""

from __future__ import annotations

import ast
import re
import stat
import tarfile
from pathlib import Path

import pytest

from medperf_examples import wdbc

NAMES = ["data_preparator", "metrics", "model_logreg", "model_mlp"]


def test_containers_are_complete() -> None:
    assert list(wdbc.containers()) == NAMES
    for folder in wdbc.containers().values():
        for name in ("mlcube/mlcube.yaml", "mlcube/workspace/parameters.yaml", "project/Dockerfile", "project/main.py"):
            assert (folder / name).is_file()


def test_hospitals() -> None:
    assert wdbc.hospitals() == ["hospital_a", "hospital_b"]
    for name in wdbc.hospitals():
        found = wdbc.hospital(name)
        assert any(found.data_path.iterdir()) and any(found.labels_path.iterdir())
    with pytest.raises(KeyError, match="hospital_a, hospital_b"):
        wdbc.hospital("hospital_c")


def test_demo_tarball_is_the_same_twice(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    first = wdbc.write_demo_dataset(tmp_path / "one")
    second = wdbc.write_demo_dataset(tmp_path / "other.tar.gz")
    assert (first.name, second.name) == ("demo_dataset.tar.gz", "other.tar.gz")
    assert first.read_bytes() == second.read_bytes()
    # Bytes 4 to 8 hold gzip's time; two runs within one second would agree on a wrong one.
    assert first.read_bytes()[4:8] == bytes(4)
    with tarfile.open(first) as tar:
        members = tar.getmembers()
        paths = tar.extractfile("paths.yaml")
        assert paths is not None
        assert paths.read() == b"data_path: raw\nlabels_path: labels\n"
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(member.uid, member.gid, member.mtime, member.uname) for member in members} == {(0, 0, 0, "")}
    assert {"raw", "labels", "raw/zellkerne.csv"} <= {member.name for member in members}


def test_shared_modules_do_not_drift_apart() -> None:
    for name, holders in {
        "parameters.py": NAMES,
        "Dockerfile": NAMES,
        "cases.py": NAMES[2:],
        "main.py": NAMES[2:],
    }.items():
        assert len({(wdbc.containers()[holder] / "project" / name).read_bytes() for holder in holders}) == 1


def test_container_code_needs_only_an_old_python() -> None:
    standard = {
        "argparse",
        "bisect",
        "collections.abc",
        "csv",
        "decimal",
        "json",
        "math",
        "pathlib",
        "random",
        "re",
        "statistics",
        "sys",
    }
    for folder in wdbc.containers().values():
        own = {path.stem for path in (folder / "project").glob("*.py")}
        for path in (folder / "project").glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 9))):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                modules += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
                assert set(modules) <= standard | own | {"__future__", "typing"}, path


def test_any_user_may_read_what_the_image_copies() -> None:
    for folder in wdbc.containers().values():
        for path in (folder / "project").glob("*.py"):
            assert path.stat().st_mode & stat.S_IROTH


@pytest.mark.parametrize("name", NAMES)
def test_both_manifest_formats_tell_the_same(name: str) -> None:
    yaml = pytest.importorskip("yaml")
    folder = wdbc.containers()[name]
    cube = yaml.safe_load((folder / "mlcube" / "mlcube.yaml").read_text())
    config = yaml.safe_load((folder / "container_config.yaml").read_text())
    assert set(config) == {"container_type", "image", "process", "tasks"}
    assert config["image"] == cube["docker"]["image"]
    assert set(config["tasks"]) == set(cube["tasks"]) == set(cube["process"]["tasks"])
    for task, content in cube["tasks"].items():
        given = content["parameters"]
        names = {*given["inputs"], *given.get("outputs", {})}
        assert set(re.findall(r"\{(\w+)\}", " ".join(cube["process"]["tasks"][task]))) == names
        volumes = config["tasks"][task]
        mounts = {**volumes["input_volumes"], **volumes.get("output_volumes", {})}
        assert {label.replace("additional_files", "weights") for label in mounts} == names
        words = volumes["run_args"]["command"].split()
        assert words[0] == task
        assert {word[2:].partition("=")[0] for word in words[1:]} == names
        used = [word.partition("=")[2] for word in words[1:]]
        assert all(any(path.startswith(mount["mount_path"]) for path in used) for mount in mounts.values())
        for label, output in given.get("outputs", {}).items():
            assert mounts[label]["type"] == output["type"]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_yaml_too(name: str) -> None:
    yaml = pytest.importorskip("yaml")
    path = wdbc.containers()[name] / "mlcube" / "workspace" / "parameters.yaml"
    assert all(isinstance(value, (int, float, list)) for value in yaml.safe_load(path.read_text()).values())


def test_results_are_yaml_too(chain: Path) -> None:
    yaml = pytest.importorskip("yaml")
    results = yaml.safe_load((chain / "hospital_a" / "model_mlp.yaml").read_text())
    assert results["cases"] == 180 and len(results["auc"]["ci95"]) == 2
    assert len(yaml.safe_load((chain / "demo" / "statistics.yaml").read_text())["features"]) == 30


def test_the_source_is_named() -> None:
    text = (wdbc.root() / "ATTRIBUTION.md").read_text()
    assert "10.24432/C5DW2B" in text and "licenses/by/4.0" in text and "Wolberg" in text
