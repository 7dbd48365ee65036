"""The same journey on a real Apptainer, with images from a build, an archive, an image file and a real registry."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tarfile
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml

from medperf_core import Site, SiteOptions
from medperf_core.entities import Approval, Container, FindingStatus, IdentityKind, Model
from medperf_core.errors import InvalidEntityError, VerificationError
from medperf_core.journeys.associate import answer, associate
from medperf_core.journeys.compatibility import run_test
from medperf_core.journeys.containers import resolve
from medperf_core.journeys.package import package
from medperf_core.journeys.run_task import run_container_task
from medperf_core.journeys.submit import HostedFiles, submit_container
from medperf_core.plugin.isolation import Condition
from tests.engines import require

from .conftest import Tutorial, start

CLOSED = SiteOptions(platform="singularity")
IMAGES = "workspace/.image"


@pytest.fixture(scope="module", autouse=True)
def apptainer() -> None:
    require("apptainer")


def on_singularity(tutorial: Tutorial) -> AbstractContextManager[Site]:
    return tutorial.site(options=CLOSED)


def prepared_image(site: Site, tutorial: Tutorial) -> Path:
    """The SIF that the model's project was built to."""
    identity = resolve(site, str(tutorial.model)).image.identities[0]
    (found,) = site.cache_dir.glob(f"singularity/images/*{identity.digest.removeprefix('sha256:')}/*.sif")
    return found


def with_image(tutorial: Tutorial, folder: Path, sections: Mapping[str, Any], image: Path | None = None) -> Path:
    """A copy of the model whose image comes from somewhere else."""
    copy = folder / "mlcube"
    shutil.copytree(tutorial.model, copy, ignore=shutil.ignore_patterns("deploy"))
    manifest = yaml.safe_load((copy / "mlcube.yaml").read_text())
    del manifest["process"], manifest["docker"]
    (copy / "mlcube.yaml").write_text(yaml.safe_dump({**manifest, **sections}))
    if image is not None:
        (copy / IMAGES).mkdir()
        shutil.copyfile(image, copy / IMAGES / f"image{image.suffix}")
    return copy


def hosted(site: Site, model: Path) -> HostedFiles:
    made = package(site, model)
    url = {item.name: (made.folder / item.name).as_uri() for item in made.files}
    return HostedFiles(
        mlcube=url["mlcube.yaml"],
        parameters=url["parameters.yaml"],
        additional=url["additional_files.tar.gz"],
        image=made.image_file.as_uri() if made.image_file else None,
    )


def registered(site: Site, name: str, files: HostedFiles) -> tuple[int, set[IdentityKind]]:
    model = submit_container(site, name, files)
    assert isinstance(model, Model) and model.container is not None and model.container.uid is not None
    return model.container.uid, {image.kind for image in model.container.images()}


def test_built_from_the_project_and_closed(docker: Tutorial) -> None:
    with on_singularity(docker) as site:
        uid, kinds = registered(site, "built", hosted(site, docker.model))
        assert kinds == {IdentityKind.SOURCE}
        asked = associate(site, benchmark=1, container=uid)
        assert asked.metadata["test_result"]["platform"] == "singularity"
        assert asked.metadata["test_result"]["waivers"] == []
        report = run_test(site, benchmark=1, model=str(uid))
        for step in report.steps:
            assert step.engine.startswith("apptainer ") and step.waivers == [] and step.limits
            assert {image.partition(":")[0] for image in step.images} == {"sif", "source"}
        assert report.results["auc"]["value"] == pytest.approx(0.9522, abs=1e-3)
        assert all(step.reused for step in report.steps)
    with docker.committee() as site:
        assert answer(site, approve=True, benchmark=1, container=uid).approval_status is Approval.APPROVED


def test_as_apptainer_and_without_a_connection(docker: Tutorial) -> None:
    with docker.site(options=SiteOptions(platform="apptainer", offline=True)) as site:
        report = run_test(site, benchmark=1, model=str(docker.model))
        assert report.platform == "apptainer" and report.results["cases"] == 30


def test_from_a_registry_by_digest_even_after_the_tag_moved(docker: Tutorial, tmp_path: Path) -> None:
    reference = f"{require('registry')['MEDPERF_TEST_REGISTRY']}/tutorial/singularity-{os.getpid()}:1"
    with docker.site() as site:
        push(resolve(site, str(docker.model)).image.reference, reference)
    with on_singularity(docker) as site:
        model = with_image(docker, tmp_path, {"docker": {"image": reference}})
        uid, kinds = registered(site, "from-registry", hosted(site, model))
        assert kinds == {IdentityKind.CONFIG, IdentityKind.MANIFEST}
        push("localhost/medperf-examples/python-base:local", reference)
        assert run_test(site, benchmark=1, model=str(uid)).results["cases"] == 30
        config = resolve(site, str(uid)).image.identities[0]
        (kept,) = site.cache_dir.glob(f"singularity/images/config-{config.digest.removeprefix('sha256:')}")
        shutil.rmtree(kept)  # so that only the digest still leads to it
        assert run_test(site, benchmark=1, model=str(uid)).results["cases"] == 30
        assert kept.is_dir()


def push(image: str, reference: str) -> None:
    for words in (["tag", image, reference], ["push", "--quiet", reference], ["rmi", reference]):
        subprocess.run(["docker", *words], check=True, capture_output=True)


def test_from_an_archive_and_never_another_one(docker: Tutorial, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    with docker.site() as site:
        image = resolve(site, str(docker.model)).image.reference
        subprocess.run(["docker", "save", "--output", str(archive), image], check=True)
    with on_singularity(docker) as site:
        model = with_image(docker, tmp_path, {"docker": {"tar_file": "image.tar"}}, archive)
        files = hosted(site, model)
        with pytest.raises(InvalidEntityError, match="--image-file"):
            submit_container(site, "nothing-to-compare", attrs.evolve(files, image=None))
        uid, kinds = registered(site, "archived", files)
        assert kinds == {IdentityKind.ARCHIVE, IdentityKind.CONFIG}
        assert run_test(site, benchmark=1, model=str(uid)).results["cases"] == 30
        archive = model / IMAGES / "image.tar"
        site.cache.remove(site.server.get(Container, uid).sources()["image"]["sha256"])
        archive.write_bytes(archive.read_bytes()[:-1024] + b"x" * 1024)
        with pytest.raises(VerificationError):
            run_test(site, benchmark=1, model=str(uid), fresh=True)


def test_from_an_image_file_which_other_engines_cannot_run(docker: Tutorial, tmp_path: Path) -> None:
    with on_singularity(docker) as site:
        sections = {"singularity": {"image": "image.sif"}}
        model = with_image(docker, tmp_path, sections, prepared_image(site, docker))
        uid, kinds = registered(site, "image-file", hosted(site, model))
        assert kinds == {IdentityKind.SIF}
        assert run_test(site, benchmark=1, model=str(uid)).results["cases"] == 30
    with docker.site() as site, pytest.raises(InvalidEntityError, match=r"offers sif.*--platform singularity"):
        run_test(site, benchmark=1, model=str(uid))


def test_strict_as_another_user_than_the_caller(docker: Tutorial) -> None:
    with on_singularity(docker) as site:
        if Condition.USER not in site.capabilities.conditions:
            pytest.skip("only root can hand outputs over to another user")
        report = run_test(site, benchmark=1, model=str(docker.model), strict=True)
        assert {each.check: each.status for each in report.findings}["user"] is FindingStatus.PASSED
        assert FindingStatus.FAILED not in {each.status for each in report.findings}


@pytest.fixture
def users(docker: Tutorial) -> Iterator[tuple[Tutorial, SiteOptions]]:
    """A tutorial in a folder that an unprivileged account owns, and how it runs on Singularity there."""
    with on_singularity(docker) as site:  # imports what that account may not be able to read
        run_test(site, benchmark=1, model=str(docker.model))
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="medperf-journey-") as name:
        folder = Path(name)
        tutorial = start(folder)
        base = shutil.copy(docker.folder / "python-base.tar", folder)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account().pw_uid, account().pw_gid, follow_symlinks=False)
        yield tutorial, attrs.evolve(CLOSED, settings={"singularity": {"build_args": (f"BASE_IMAGE={base}",)}})


def account() -> pwd.struct_passwd:
    """An account without privileges: the caller's own, if it has none."""
    return pwd.getpwnam("medperf-test") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def as_user(work: Callable[[], None]) -> None:
    """Do it with the rights of that account, and fail if it fails."""
    user = account()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(user.pw_gid)
                os.setuid(user.pw_uid)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_as_an_unprivileged_user_whose_files_stay_its_own(users: tuple[Tutorial, SiteOptions]) -> None:
    tutorial, options = users
    data, output = tutorial.folder / "data", tutorial.folder / "prepared, and: more"

    def journey() -> None:
        with tarfile.open(tutorial.folder / "demo_dataset.tar.gz") as tar:
            tar.extractall(data, filter="data")
        with tutorial.site(options=options) as site:
            inputs = {"data_path": data / "raw", "labels_path": data / "labels"}
            run_container_task(site, "1", "prepare", inputs, output)
            report = run_test(site, benchmark=1, model=str(tutorial.model), fresh=True)
        assert report.results["cases"] == 30
        assert {(step.engine.partition(" ")[0], *step.waivers) for step in report.steps} == {("apptainer",)}

    def clear() -> None:
        for path in (output, tutorial.home, tutorial.folder):
            shutil.rmtree(path)

    as_user(journey)
    assert (output / "output_path" / "cases.csv").is_file()
    everything = [tutorial.home, *tutorial.home.rglob("*"), *tutorial.folder.rglob("*")]
    assert {path.lstat().st_uid for path in everything} == {account().pw_uid}
    as_user(clear)
    assert not output.exists() and not tutorial.home.exists()
