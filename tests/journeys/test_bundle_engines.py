"""Bundles with images: made with Docker and Apptainer here, run from the bundle alone by either, with no image left."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from medperf_core import Site, SiteOptions
from medperf_core.entities import Container, IdentityKind, SourceKind
from medperf_core.errors import DeniedError
from medperf_core.journeys.bundle import CreatedBundle, create_bundle, load_bundle
from medperf_core.journeys.compatibility import run_test
from medperf_core.journeys.containers import resolve
from medperf_core.site.cache_contents import Sort, contents
from medperf_core.site.cache_gc import collect
from medperf_core.site.cache_move import move_cache
from medperf_core.site.cache_verify import verify_all
from medperf_core.site.home import Home
from medperf_core.site.keys import KeyStore
from medperf_core.site.profiles import ProfileStore
from tests.engines import require

from .conftest import Tutorial


@pytest.fixture(scope="module")
def made(docker: Tutorial) -> Iterator[CreatedBundle]:
    require("apptainer")
    with docker.site() as site:
        KeyStore(site.home).make()
        output = docker.folder.parent / "b.tar"
        yield create_bundle(site, benchmark=1, output=output, platforms=["docker", "singularity"])


def far(made: CreatedBundle, place: Path, platform: str) -> Path:
    """A home that has loaded the bundle."""
    home = Home.open(place)
    ProfileStore(home).create("island", platform=platform, trusted_keys=[made.index.maker])
    with Site.open(home.path, profile="island") as site:
        load_bundle(site, made.path)
    return home.path


def offline(home: Path) -> Site:
    return Site.open(home, profile="island", options=SiteOptions(offline=True))


def test_it_has_an_image_of_each_kind_for_each_container(made: CreatedBundle, docker: Tutorial) -> None:
    found = {(image.container, image.kind) for image in made.index.images}
    assert found == {(uid, kind) for uid in (1, 2, 3) for kind in (SourceKind.ARCHIVE, SourceKind.SIF)}
    assert len({image.sha256 for image in made.index.images}) == 6
    with docker.site() as site:  # the images that were saved once are not saved again
        again = create_bundle(site, benchmark=1, output=docker.folder.parent / "c.tar", platforms=["docker"])
    archives = {image.sha256 for image in made.index.images if image.kind is SourceKind.ARCHIVE}
    assert {image.sha256 for image in again.index.images} == archives
    again.path.unlink()


def test_docker_runs_it_from_the_bundle(made: CreatedBundle, docker: Tutorial, tmp_path: Path) -> None:
    with docker.site() as site:
        here = run_test(site, benchmark=1)
        for uid in (1, 2, 3):
            reference = resolve(site, str(uid)).image.reference
            subprocess.run(["docker", "image", "rm", "--force", reference], check=True, capture_output=True)
    home = far(made, tmp_path / "island", "docker")
    with offline(home) as site:
        there = run_test(site, benchmark=1)
    assert there.results == here.results
    assert all(step.engine.startswith("docker") and not step.waivers for step in there.steps)
    assert all(any(image.startswith("archive:") for image in step.images) for step in there.steps)


def test_singularity_runs_it_from_the_bundle(made: CreatedBundle, docker: Tutorial, tmp_path: Path) -> None:
    home = far(made, tmp_path / "island", "singularity")
    with offline(home) as site:
        there = run_test(site, benchmark=1)
        container = site.server.get(Container, 2)
        ready = resolve(site, "2")
    assert there.results["cases"] == 30
    assert all(step.engine.startswith("apptainer") and not step.waivers for step in there.steps)
    (identity,) = ready.image.identities
    assert identity.kind is IdentityKind.SIF and identity not in container.images()
    assert identity.digest.removeprefix("sha256:") in {image.sha256 for image in made.index.images}


def test_an_image_that_was_changed_in_the_cache_is_not_run(made: CreatedBundle, tmp_path: Path) -> None:
    home = far(made, tmp_path / "island", "singularity")
    with offline(home) as site:
        sha256 = next(each.sha256 for each in made.index.images if (each.container, each.kind) == (2, SourceKind.SIF))
        path = site.cache.file(sha256)
        assert path is not None
        path.chmod(0o600)
        with path.open("r+b") as stream:
            stream.seek(-1, 2)
            stream.write(b"X")
        assert hashlib.sha256(path.read_bytes()).hexdigest() != sha256
        image = resolve(site, "2").image  # of the other file in the bundle, converted
    assert {each.kind for each in image.identities} == {IdentityKind.ARCHIVE, IdentityKind.CONFIG}


def test_a_policy_looks_at_what_is_verified_here(made: CreatedBundle, docker: Tutorial, tmp_path: Path) -> None:
    """Not at the identities that the bundle's maker tells, even where they are the recorded ones."""
    home, store = far(made, tmp_path / "island", "docker"), ProfileStore(Home(tmp_path / "island"))
    told = [identity for image in made.index.images for identity in image.identities]
    recorded = [str(each) for container in made.index.containers for each in container.images()]
    claimed = sorted({each for each in (*told, *recorded) if each.startswith(("manifest:", "source:"))})
    assert claimed
    store.set_text("island", "policy.images", ",".join(claimed))
    with offline(home) as site, pytest.raises(DeniedError) as caught:
        run_test(site, benchmark=1)
    assert "image archive:sha256:" in str(caught.value) and ", config:sha256:" in str(caught.value)
    command = str(caught.value).partition("medperf profile set policy.images=")[2]
    assert command.startswith(",".join(claimed)) and "archive:sha256:" in command
    archives = [f"archive:sha256:{each.sha256}" for each in made.index.images if each.kind is SourceKind.ARCHIVE]
    store.set_text("island", "policy.images", ",".join([*claimed, *archives]))
    with offline(home) as site:
        assert run_test(site, benchmark=1).results["cases"] == 30


def test_what_singularity_converted_is_listed_checked_moved_and_freed(made: CreatedBundle, tmp_path: Path) -> None:
    home = Home(far(made, tmp_path / "island", "singularity"))

    def sif(site: Site) -> Path:
        for image in made.index.images:
            if image.kind is SourceKind.SIF:
                site.cache.remove(image.sha256)  # so that the archive is converted
        return Path(resolve(site, "2").image.reference)

    with offline(home.path) as site:
        path = sif(site)
        copy = next(item for item in contents(site.cache_dir) if item.path == path.parent)
        assert copy.sort is Sort.COPY and copy.size > path.stat().st_size
        assert not [item for item in collect(home, keep=0).freed if item.sort is Sort.COPY]  # in use
        assert verify_all(home, site.cache_dir).dropped == ()
    move_cache(home, tmp_path / "disk")
    with offline(home.path) as site:
        assert verify_all(home, site.cache_dir).dropped == ()
        path = sif(site)
        assert path.is_relative_to(tmp_path / "disk")
        with path.open("r+b") as stream:
            stream.seek(-1, 2)
            stream.write(b"X")
        assert [item.path for item in verify_all(home, site.cache_dir).dropped] == [path.parent]
        assert not path.exists()
        path = sif(site)
    os.utime(path.parent, (1, 1))
    assert [item.path for item in collect(home).freed] == [path.parent]
    assert not path.parent.exists()
    with offline(home.path) as site:
        assert sif(site).exists()
