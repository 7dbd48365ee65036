"""Patients' data, and what was made of them, leave by no command: not packed, uploaded, registered or in a bundle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from medperf_examples import wdbc

from medperf_core import SiteOptions
from medperf_core.entities import Benchmark, Container, SourceKind
from medperf_core.errors import DeniedError, ExecutionError, MedperfError
from medperf_core.journeys import bundle_files
from medperf_core.journeys import package as packaging
from medperf_core.journeys.bundle import create_bundle
from medperf_core.journeys.compatibility import run_test
from medperf_core.journeys.containers import read_local
from medperf_core.journeys.package import package
from medperf_core.journeys.publish import publish
from medperf_core.journeys.run_task import run_container_task
from medperf_core.journeys.submit import submit_container
from medperf_core.site import archive
from medperf_core.site.site import Site

from .conftest import Tutorial
from .test_model_owner import hosted

ALLOWED = SiteOptions(allow=("no-isolation",))


@pytest.fixture
def patients(tmp_path: Path) -> dict[str, Path]:
    """Data and labels of a hospital, as the preparator is given them."""
    source = wdbc.hospital("hospital_b")
    given = {"data_path": tmp_path / "hospital" / "raw", "labels_path": tmp_path / "hospital" / "labels"}
    shutil.copytree(source.data_path, given["data_path"])
    shutil.copytree(source.labels_path, given["labels_path"])
    return given


def prepared(site: Site, tutorial: Tutorial, patients: dict[str, Path], output: Path) -> Path:
    run_container_task(site, str(tutorial.folder / "data_preparator" / "mlcube"), "prepare", patients, output)
    return output / "output_path"


def additional(tutorial: Tutorial) -> Path:
    """The additional files of the model, out of the way."""
    folder = tutorial.model / "workspace" / "additional_files"
    folder.rename(tutorial.folder / "weights before")
    return folder


def nothing_leaves(site: Site, tutorial: Tutorial, tmp_path: Path, match: str) -> None:
    before = len(site.audit.entries())
    weights = tutorial.model / "workspace" / "additional_files" / "weights.json"
    if not weights.exists():  # without it, it would be refused for another reason
        shutil.copyfile(tutorial.folder / "weights before" / "weights.json", weights)
    with pytest.raises(DeniedError, match=rf"was not uploaded: .*{match}.*data never leave this site"):
        publish(site, tutorial.model, (tmp_path / "share").as_uri())
    package_ = tutorial.model / "deploy"
    with pytest.raises(DeniedError, match=rf"was not packed: .*{match}.*data never leave this site"):
        package(site, tutorial.model)
    assert not (tmp_path / "share").exists() and not package_.exists()
    assert len(site.audit.entries()) == before


def renamed(data: Path, folder: Path) -> None:
    data.rename(folder)


def renamed_with_all(data: Path, folder: Path) -> None:
    data.parent.rename(folder)


def linked(data: Path, folder: Path) -> None:
    folder.symlink_to(data)


def linked_as_a_whole(data: Path, folder: Path) -> None:
    folder.symlink_to(data.parent.parent)


def linked_below(data: Path, folder: Path) -> None:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "l").symlink_to(data)


def hard_linked(data: Path, folder: Path) -> None:
    shutil.copytree(data, folder, copy_function=os.link)


@pytest.mark.parametrize(
    ("put", "match"),
    [
        (linked, "was used as data here"),
        (linked_as_a_whole, "(was used as data here|keeps its keys)"),
        (linked_below, "leads to"),
        (hard_linked, "is the same file as"),
        (renamed, "under another name"),
        (renamed_with_all, "under another name"),
    ],
)
def test_what_a_task_made_of_data(
    tutorial: Tutorial,
    patients: dict[str, Path],
    tmp_path: Path,
    put: Callable[[Path, Path], None],
    match: str,
) -> None:
    with tutorial.site(options=ALLOWED) as site:
        put(prepared(site, tutorial, patients, tmp_path / "out"), additional(tutorial))
        nothing_leaves(site, tutorial, tmp_path, match)


def test_data_and_labels_themselves(tutorial: Tutorial, patients: dict[str, Path], tmp_path: Path) -> None:
    with tutorial.site(options=ALLOWED) as site:
        prepared(site, tutorial, patients, tmp_path / "out")
        folder = additional(tutorial)
        for path in patients.values():
            folder.symlink_to(path)
            with pytest.raises(DeniedError, match="was used as data here"):
                publish(site, tutorial.model, (tmp_path / "share").as_uri())
            folder.unlink()
        parameters = tutorial.model / "workspace" / "parameters.yaml"
        parameters.unlink()
        os.link(patients["labels_path"] / "outcomes.json", parameters)
        (tutorial.folder / "weights before").rename(folder)
        with pytest.raises(DeniedError, match=r"parameters\.yaml was not uploaded: .*is the same file as"):
            publish(site, tutorial.model, (tmp_path / "share").as_uri())


def test_kept_steps(tutorial: Tutorial, tmp_path: Path) -> None:
    with tutorial.site(options=ALLOWED) as site:
        assert run_test(site, benchmark=1).results
        assert site.data_folders.known() == ()  # demo data only
        kept = next(site.cache_dir.glob("steps/*/outputs/output_labels_path"))
        additional(tutorial).symlink_to(kept)
        nothing_leaves(site, tutorial, tmp_path, "keeps its keys, records and prepared data")


def test_data_of_a_test_are_known_before_it_runs(tutorial: Tutorial, tmp_path: Path) -> None:
    with tutorial.site(options=ALLOWED) as site:
        for role in ("data", "labels"):
            (tmp_path / role).mkdir()
        with pytest.raises(ExecutionError):
            run_test(site, benchmark=1, data_path=tmp_path / "data", labels_path=tmp_path / "labels")
        assert site.data_folders.known() == (str(tmp_path / "data"), str(tmp_path / "labels"))


def test_inputs_of_any_name_are_data(tutorial: Tutorial, tmp_path: Path) -> None:
    """A container may call its tasks and their inputs what it likes; what belongs to the container is none."""
    manifest = tutorial.model / "mlcube.yaml"
    told = yaml.safe_load(manifest.read_text())
    [command] = [told["process"]["tasks"].pop("infer")]
    told["process"]["tasks"]["shrink"] = [word.replace("{data_path}", "{images}") for word in command]
    told["tasks"]["shrink"] = told["tasks"].pop("infer")
    inputs = told["tasks"]["shrink"]["parameters"]["inputs"]
    inputs["images"] = inputs.pop("data_path")
    manifest.write_text(yaml.safe_dump(told))
    images, parameters = tmp_path / "images", tutorial.model / "workspace" / "parameters.yaml"
    images.mkdir()
    with tutorial.site(options=ALLOWED) as site:
        with pytest.raises(MedperfError):  # it has no such task, which is seen when the data are known
            run_container_task(
                site, str(tutorial.model), "shrink", {"images": images, "parameters_file": parameters}, tmp_path / "out"
            )
        assert site.data_folders.known() == (str(images), str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


def test_the_context_of_an_image(tutorial: Tutorial, tmp_path: Path) -> None:
    manifest = tutorial.model / "mlcube.yaml"
    told = yaml.safe_load(manifest.read_text())
    del told["process"]
    manifest.write_text(yaml.safe_dump(told))
    with tutorial.site() as site:
        local = read_local(site, tutorial.model)
        assert local.spec.project is None
        [context] = [Path(each.location) for each in local.spec.sources if each.kind is SourceKind.TREE]
        (context / "cases").mkdir()
        site.data_folders.remember([context / "cases"])
        with pytest.raises(DeniedError, match="used as data"):
            publish(site, tutorial.model, (tmp_path / "share").as_uri(), image=True)
        assert not (tmp_path / "share").exists()
        shown: list[object] = []
        with pytest.raises(MedperfError, match="No identity"):  # the image stays here, so nobody could run it
            publish(site, tutorial.model, (tmp_path / "share").as_uri(), dry_run=True, show=shown.extend)
        assert shown


def test_what_comes_while_it_is_packed(tutorial: Tutorial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = tmp_path / "cases"
    cases.mkdir()
    (cases / "1.csv").write_text("1")
    with tutorial.site() as site:
        site.data_folders.remember([cases])
        weights = tutorial.model / "workspace" / "additional_files"
        real = archive.pack_tree

        def pack(root: Path, *more: Any) -> Any:
            if root == weights and cases.exists():
                cases.rename(weights / "cases")
            return real(root, *more)

        monkeypatch.setattr(packaging, "pack_tree", pack)
        with pytest.raises(DeniedError, match="under another name"):
            publish(site, tutorial.model, (tmp_path / "share").as_uri())
        (weights / "cases").rename(cases)
        with pytest.raises(DeniedError, match=r"was not packed: .*under another name"):
            package(site, tutorial.model)
        packed: list[Path] = []
        monkeypatch.setattr(packaging, "pack_tree", lambda root, *more: packed.append(root))
        with pytest.raises(DeniedError, match="under another name"):
            package(site, tutorial.model)  # what was there before is not even read
        assert not packed
        assert not (tmp_path / "share").exists() and not (tutorial.model / "deploy").exists()


@pytest.mark.parametrize("part", ["mlcube", "parameters", "additional", "project", "image"])
@pytest.mark.parametrize("written", ["{path}", "{uri}", "DIRECT:{uri}", "file:{path}", "file://localhost{path}"])
def test_a_file_of_data_is_not_registered(shared: Tutorial, tmp_path: Path, part: str, written: str) -> None:
    patients = tmp_path / "patients"
    patients.mkdir()
    with shared.site() as site:
        files = hosted(shared, site)
        given = getattr(files, part) or files.parameters
        file = shutil.copy(Path(str(given).removeprefix("file://")), patients)
        site.data_folders.remember([patients])
        before = len(site.audit.entries())
        wrong = {part: written.format(path=file, uri=Path(file).as_uri())}
        with pytest.raises(DeniedError, match=r"was not registered: .*was used as data here"):
            submit_container(site, "data", attrs.evolve(files, **wrong))
        assert len(site.audit.entries()) == before


# --- bundles ------------------------------------------------------------------------------------------------------


def test_no_file_of_data_goes_into_a_bundle(shared: Tutorial, tmp_path: Path) -> None:
    with shared.site() as site:
        benchmark = site.server.get(Benchmark, 1)
        container = site.server.get(Container, benchmark.data_preparation_mlcube)
        taking_part = bundle_files.participants(site, 1, [])
        patients = tmp_path / "data of patients"
        patients.mkdir()
        site.data_folders.remember([patients])
        file = f"{patients.as_uri()}/x"
        for address in (file, f"DIRECT:{file}", f"direct:{file.replace('file', 'FILE', 1)}"):
            source = {"url": address, "sha256": "0" * 64}
            metadata = {**container.metadata, "sources": {**container.sources(), "image": source}}
            others = [
                attrs.evolve(container, metadata=metadata),
                attrs.evolve(container, additional_files_tarball_url=address, additional_files_tarball_hash="0" * 64),
            ]
            for other in others:
                with pytest.raises(DeniedError, match=r"was not put into a bundle: .*used as data here"):
                    bundle_files.collect(site, attrs.evolve(taking_part, containers=(other,)), ["process"])


def test_demo_data_that_are_patients_data(tutorial: Tutorial, tmp_path: Path) -> None:
    with tutorial.site() as site:
        url = site.server.get(Benchmark, 1).demo_dataset_tarball_url
        site.data_folders.remember([Path(url.removeprefix("file://"))])
        with pytest.raises(DeniedError, match="put into a bundle"):
            create_bundle(site, benchmark=1, output=tmp_path / "no.tar", platforms=["process"], unsigned=True)
        assert not list(tmp_path.glob("no.tar*"))
