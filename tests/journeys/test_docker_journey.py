"""The same journey on a real Docker daemon, with images from a build, an archive and a real registry."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import yaml

from medperf_core.entities import Approval, Container, IdentityKind, Model
from medperf_core.errors import ExecutionError, VerificationError
from medperf_core.journeys.associate import answer, associate
from medperf_core.journeys.compatibility import run_test
from medperf_core.journeys.package import package
from medperf_core.journeys.submit import HostedFiles, submit_container
from medperf_core.site.site import Site
from tests.engines import require

from .conftest import Tutorial, start

IMAGE = "localhost/medperf-examples/wdbc-model-mlp:1.0.0"


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def engine() -> Iterator[dict[str, str]]:
    values = {**require("docker"), **require("registry")}
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCKER_HOST", values["DOCKER_HOST"])
    yield values
    patch.undo()


@pytest.fixture(scope="module")
def started(engine: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    return start(tmp_path_factory.mktemp("docker"), platform="docker")


def files(site: Site, tutorial: Tutorial) -> HostedFiles:
    made = package(site, tutorial.model)
    url = {item.name: (made.folder / item.name).as_uri() for item in made.files}
    return HostedFiles(
        mlcube=url["mlcube.yaml"], parameters=url["parameters.yaml"], additional=url["additional_files.tar.gz"]
    )


def local_image(site: Site, tutorial: Tutorial) -> str:
    from medperf_core.journeys.containers import resolve

    return resolve(site, str(tutorial.model)).image.reference


def test_built_from_the_project_and_closed(started: Tutorial) -> None:
    with started.site() as site:
        model = submit_container(site, "built", files(site, started))
        assert isinstance(model, Model) and model.container is not None
        assert [image.kind for image in model.container.images()] == [IdentityKind.SOURCE]
        uid = model.container.uid
        asked = associate(site, benchmark=1, container=uid)
        assert asked.metadata["test_result"]["waivers"] == []
        report = run_test(site, benchmark=1, model=str(uid))
        for step in report.steps:
            assert step.engine.startswith("docker") and step.waivers == []
            assert {image.partition(":")[0] for image in step.images} >= {"config", "source"}
            assert step.limits
        assert report.results["auc"]["value"] == pytest.approx(0.9522, abs=1e-3)
    with started.committee() as site:
        assert answer(site, approve=True, benchmark=1, container=uid).approval_status is Approval.APPROVED
    owners = docker("ps", "-a", "--filter", "label=medperf", "--format", '{{.Label "medperf.owner"}}')
    assert f".{os.getpid()}." not in owners


def test_from_a_registry_by_digest_even_after_the_tag_moved(
    started: Tutorial, engine: dict[str, str], tmp_path: Path
) -> None:
    reference = f"{engine['MEDPERF_TEST_REGISTRY']}/tutorial/model:1"
    with started.site() as site:
        docker("tag", local_image(site, started), reference)
        docker("push", reference)
        hosted = files(site, started)
        manifest = yaml.safe_load((started.model / "mlcube.yaml").read_text())
        manifest["docker"] = {"image": reference}
        del manifest["process"]
        (tmp_path / "mlcube.yaml").write_text(yaml.safe_dump(manifest))
        model = submit_container(site, "from-registry", attrs.evolve(hosted, mlcube=str(tmp_path / "mlcube.yaml")))
        assert isinstance(model, Model) and model.container is not None
        kinds = {image.kind for image in model.container.images()}
        assert IdentityKind.MANIFEST in kinds
        docker("tag", "localhost/medperf-examples/python-base:local", reference)
        docker("push", reference)
        docker("rmi", reference)
        report = run_test(site, benchmark=1, model=str(model.container.uid), fresh=True)
        assert report.results["cases"] == 30


def test_from_an_archive_and_never_another_one(started: Tutorial, tmp_path: Path) -> None:
    with started.site() as site:
        archive = tmp_path / "image.tar"
        docker("save", "-o", str(archive), local_image(site, started))
        hosted = files(site, started)
        manifest = yaml.safe_load((started.model / "mlcube.yaml").read_text())
        del manifest["process"], manifest["docker"]["build_context"], manifest["docker"]["build_file"]
        manifest["docker"]["image"] = "127.0.0.1:1/nowhere:1"
        (tmp_path / "mlcube.yaml").write_text(yaml.safe_dump(manifest))
        hosted = attrs.evolve(hosted, mlcube=str(tmp_path / "mlcube.yaml"), image=archive.as_uri())
        with pytest.raises(ExecutionError, match=r"127\.0\.0\.1:1"):
            submit_container(site, "unreachable", hosted)
        manifest["docker"] = {"tar_file": "image.tar"}
        (tmp_path / "mlcube.yaml").write_text(yaml.safe_dump(manifest))
        model = submit_container(site, "archived", hosted)
        assert isinstance(model, Model) and model.container is not None
        assert {image.kind for image in model.container.images()} >= {IdentityKind.ARCHIVE, IdentityKind.CONFIG}
        uid = model.container.uid
        assert run_test(site, benchmark=1, model=str(uid), fresh=True).results["cases"] == 30
        digest = site.server.get(Container, uid).sources()["image"]["sha256"]
        site.cache.remove(digest)
        archive.write_bytes(archive.read_bytes()[:-1024] + b"x" * 1024)
        with pytest.raises(VerificationError):
            run_test(site, benchmark=1, model=str(uid), fresh=True)


def test_a_changed_project_is_not_built(started: Tutorial) -> None:
    (started.folder / "model_mlp" / "project" / "notes.txt").write_text("another project, so another image")
    with started.site() as site:
        submit_container(site, "project-changes", files(site, started))
        (uid,) = [item.uid for item in site.server.list(Container, name="project-changes")]
        site.cache.remove(site.server.get(Container, uid).sources()["project"]["sha256"])
        tarball = started.model / "deploy" / "project.tar.gz"
        tarball.write_bytes(tarball.read_bytes() + b"\0")
        with pytest.raises(VerificationError):
            run_test(site, benchmark=1, model=str(uid), fresh=True)


def test_a_container_configuration_runs_like_its_mlcube(started: Tutorial) -> None:
    """Its fixed paths and command, on the image that was built from the same project and tagged by its author."""
    with started.site() as site:
        from medperf_core.journeys.containers import resolve

        docker(
            "tag",
            resolve(site, str(started.folder / "model_logreg" / "mlcube")).image.reference,
            "localhost/medperf-examples/wdbc-model-logreg:1.0.0",
        )
        configured = str(started.folder / "model_logreg" / "container_config.yaml")
        report = run_test(site, benchmark=1, model=configured, fresh=True)
        assert report.results == run_test(site, benchmark=1).results
        docker("rmi", "localhost/medperf-examples/wdbc-model-logreg:1.0.0")
