"""What ``publish --image`` uploads for each way in which a manifest has its image, and what another site runs of it."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from medperf_core import ApproveAll, DenyAll, Site
from medperf_core.entities import Container, IdentityKind, SourceKind
from medperf_core.errors import ExecutionError, MedperfError, UsageError, VerificationError
from medperf_core.journeys import account
from medperf_core.journeys.compatibility import run_test
from medperf_core.journeys.containers import ReadyContainer, resolve
from medperf_core.journeys.package import ADDITIONAL_FILE, PARAMETERS_FILE, package
from medperf_core.journeys.publish import Publication, publish
from medperf_core.journeys.submit import HostedFiles, draft_container
from medperf_core.plugin import Event, Notice, StepStarted
from tests.engines import require

from .conftest import Tutorial, start
from .test_publish import registered

NOWHERE = "127.0.0.1:9/nobody/wdbc-model-mlp:1"
"""Where no registry is."""


@pytest.fixture(scope="module")
def singularity(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    require("apptainer")
    return start(tmp_path_factory.mktemp("singularity"), platform="singularity")


@pytest.fixture(params=["docker", "singularity"])
def engine(request: pytest.FixtureRequest) -> Tutorial:
    """A tutorial on each platform that has images."""
    found: Tutorial = request.getfixturevalue(request.param)
    return found


def model(tutorial: Tutorial, tmp_path: Path, *without: str, **docker: str) -> Path:
    """A model that nobody built or registered yet, whose manifest lacks sections and says something of docker."""
    copy = tmp_path / "model"
    shutil.copytree(tutorial.model.parent, copy, ignore=shutil.ignore_patterns("deploy", "__pycache__"))
    (copy / "project" / "note.py").write_text(f"NOTE = {uuid.uuid4().hex!r}\n")
    manifest = copy / "mlcube" / "mlcube.yaml"
    told: dict[str, Any] = yaml.safe_load(manifest.read_text())
    told["docker"] = {**told["docker"], **docker}
    manifest.write_text(yaml.safe_dump({key: value for key, value in told.items() if key not in without}))
    return copy / "mlcube"


def published(site: Site, path: Path, tmp_path: Path) -> tuple[Publication, Container]:
    done = publish(site, path, (tmp_path / "share").as_uri(), name=f"image-{uuid.uuid4().hex[:12]}", image=True)
    return done, registered(done)


@pytest.fixture
def told() -> list[Event]:
    return []


def elsewhere(tutorial: Tutorial, tmp_path: Path, told: list[Event], platform: str | None = None) -> Site:
    """Another site of the same server, which has nothing yet."""
    with tutorial.site() as site:
        profile, user = site.profile, site.server.me().username
    fresh = tmp_path / "fresh"
    with Site.open(fresh) as site:
        changes = {name: getattr(profile, name) for name in ("server", "platform", "allow", "backends")}
        site.profiles.update(site.profile_name, {**changes, "platform": platform or profile.platform})
    with Site.open(fresh) as site:
        account.login(site, user, lambda *args: "")
    return Site.open(fresh, approver=ApproveAll("test"), on_event=told.append)


def steps(told: list[Event]) -> list[str]:
    return [event.what for event in told if isinstance(event, StepStarted)]


@pytest.mark.parametrize("without", [(), ("process",)])
def test_a_built_image_is_what_other_sites_run(
    without: tuple[str, ...], engine: Tutorial, tmp_path: Path, told: list[Event]
) -> None:
    path = model(engine, tmp_path, *without, image=NOWHERE)
    with engine.site(on_event=told.append) as site:
        done, container = published(site, path, tmp_path)
    assert not any(NOWHERE in each.message for each in told if isinstance(each, Notice))  # it was not asked
    told.clear()
    image = done.files[-1]
    assert image.made_from == f"the image built from {path.parent / 'project'}"
    shutil.rmtree(path.parent)
    with elsewhere(engine, tmp_path, told) as site:
        ready = resolve(site, str(container.uid))
        assert ready.source.kind in (SourceKind.ARCHIVE, SourceKind.SIF)
        assert Path(ready.source.location).name == image.sha256
        assert run_test(site, benchmark=1, model=str(container.uid)).results
    assert not any(each.startswith("Building") and "model" in each for each in steps(told))
    assert any(each.startswith("Fetching") and each.endswith(image.name) for each in steps(told))


def test_a_registry_s_image_is_saved_and_both_ways_are_recorded(
    docker: Tutorial, tmp_path: Path, told: list[Event]
) -> None:
    reference = f"{require('registry')['MEDPERF_TEST_REGISTRY']}/publish/{uuid.uuid4().hex[:8]}:1"
    with docker.site() as site:
        built = resolve(site, str(model(docker, tmp_path)))
        push(built, reference)
        shutil.rmtree(tmp_path / "model")
        path = model(docker, tmp_path, "process", image=reference, build_strategy="pull")
        done, container = published(site, path, tmp_path)
    assert done.files[-1].made_from == f"the registry's image {reference}"
    kinds = {identity.kind for identity in container.images()}
    assert kinds >= {IdentityKind.ARCHIVE, IdentityKind.CONFIG, IdentityKind.MANIFEST}
    with elsewhere(docker, tmp_path, told) as site:
        assert resolve(site, str(container.uid)).source.kind is SourceKind.ARCHIVE
    next((tmp_path / "share").rglob("image.tar")).unlink()
    shutil.rmtree(tmp_path / "fresh")
    told.clear()
    with elsewhere(docker, tmp_path, told) as site:
        assert resolve(site, str(container.uid)).source.kind is SourceKind.REGISTRY
    assert any(isinstance(each, Notice) and "Another way to get the image is tried" in each.message for each in told)


def test_an_image_file_and_a_registry_must_have_the_same_image(docker: Tutorial, tmp_path: Path) -> None:
    reference = f"{require('registry')['MEDPERF_TEST_REGISTRY']}/publish/{uuid.uuid4().hex[:8]}:1"
    cube = with_archive(docker, tmp_path, reference)
    made = tmp_path / "deploy"
    with docker.site() as site:
        package(site, cube, output=made)
        hosted = HostedFiles(
            mlcube=str(made / "mlcube.yaml"),
            parameters=str(made / PARAMETERS_FILE),
            additional=str(made / ADDITIONAL_FILE),
            image=str(cube / "workspace" / ".image" / "model.tar"),
        )
        push(resolve(site, str(cube)), reference)
        assert IdentityKind.MANIFEST in {each.kind for each in draft_container(site, "same", hosted).images()}
        cube.parent.rename(tmp_path / "mine")
        push(resolve(site, str(model(docker, tmp_path))), reference)
        hosted = attrs.evolve(hosted, image=str(tmp_path / "mine" / "mlcube" / "workspace" / ".image" / "model.tar"))
        with pytest.raises(VerificationError, match="are not the same image"):
            draft_container(site, "other", hosted)


def test_an_archive_is_published_whatever_a_registry_has_of_its_name(docker: Tutorial, tmp_path: Path) -> None:
    path = with_archive(docker, tmp_path, NOWHERE)
    with docker.site() as site:
        container = published(site, path, tmp_path)[1]
    assert {identity.kind for identity in container.images()} >= {IdentityKind.ARCHIVE, IdentityKind.CONFIG}


def with_archive(docker: Tutorial, tmp_path: Path, image: str | None = None) -> Path:
    """A model whose image is an archive beside its manifest, and perhaps has a name in a registry."""
    (tmp_path / "saved").mkdir()
    with docker.site() as site:
        saved = site.runner.save(resolve(site, str(model(docker, tmp_path))).image, tmp_path / "saved")
    shutil.rmtree(tmp_path / "model")
    path = model(docker, tmp_path, "process")
    manifest = yaml.safe_load((path / "mlcube.yaml").read_text())
    manifest["docker"] = {"tar_file": "model.tar", **({"image": image} if image else {})}
    (path / "mlcube.yaml").write_text(yaml.safe_dump(manifest))
    (path / "workspace" / ".image").mkdir()
    saved.rename(path / "workspace" / ".image" / "model.tar")
    return path


def push(built: ReadyContainer, reference: str) -> None:
    import docker as sdk

    client = sdk.DockerClient(base_url=require("docker")["DOCKER_HOST"])
    try:
        client.images.get(built.image.reference).tag(reference)
        client.images.push(reference)
        client.images.remove(reference)
    finally:
        client.close()


def test_an_archive_of_the_manifest_is_uploaded_as_it_is(docker: Tutorial, tmp_path: Path, told: list[Event]) -> None:
    path = with_archive(docker, tmp_path)
    archive = path / "workspace" / ".image" / "model.tar"
    saved = archive.read_bytes() + bytes(10240)  # which no engine would write
    archive.write_bytes(saved)
    with docker.site() as site:
        before = archive.stat().st_ino, archive.stat().st_mtime_ns
        with pytest.raises(UsageError, match=r"no site would get.* --image"):
            publish(site, path, (tmp_path / "share").as_uri())
        assert not (tmp_path / "share").exists()
        done, container = published(site, path, tmp_path)
    image = done.files[-1]
    assert (image.name, image.made_from, image.size) == ("image.tar", f"the image file {archive}", len(saved))
    assert Path(image.url.removeprefix("file://")).read_bytes() == saved
    assert (archive.stat().st_ino, archive.stat().st_mtime_ns) == before
    with elsewhere(docker, tmp_path, told) as site:
        assert run_test(site, benchmark=1, model=str(container.uid)).results
    require("apptainer")
    shutil.rmtree(tmp_path / "fresh")
    with elsewhere(docker, tmp_path, told, platform="singularity") as site:
        assert resolve(site, str(container.uid)).source.kind is SourceKind.ARCHIVE


def test_the_process_runner_has_no_image_to_upload_and_needs_none(
    docker: Tutorial, tutorial: Tutorial, tmp_path: Path, told: list[Event]
) -> None:
    with (
        tutorial.site(approver=DenyAll()) as site,
        pytest.raises(ExecutionError, match=r"no image files.*--platform docker"),
    ):
        publish(site, model(tutorial, tmp_path), (tmp_path / "share").as_uri(), image=True)
    assert not (tmp_path / "share").exists()
    with docker.site() as site:
        done, container = published(site, tmp_path / "model" / "mlcube", tmp_path)
    with elsewhere(docker, tmp_path, told, platform="process") as site:
        assert resolve(site, str(container.uid)).source.kind is SourceKind.TREE
    assert not any(done.files[-1].name in each for each in steps(told))  # which may be large


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    for name in ("share", "fresh", "model", "mine"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)


def test_what_cannot_be_saved_uploads_nothing(docker: Tutorial, tmp_path: Path) -> None:
    path = model(docker, tmp_path)
    (path.parent / "project" / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    with docker.site(approver=DenyAll()) as site, pytest.raises(MedperfError, match="build"):
        publish(site, path, (tmp_path / "share").as_uri(), image=True)
    assert not (tmp_path / "share").exists()
