"""What ends publishing before anything is uploaded, in a dry run too, and what a person is shown of what would be."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from medperf_core import DenyAll, SiteOptions
from medperf_core.entities import Container, Model
from medperf_core.errors import DeniedError, InvalidEntityError, MedperfError, UsageError
from medperf_core.journeys.package import PARAMETERS_FILE
from medperf_core.journeys.publish import publish
from medperf_core.plugin import Event, Progress
from medperf_core.site import cache as cache_module
from medperf_core.site.site import Site

from .conftest import Tutorial


@pytest.fixture
def share(tmp_path: Path) -> Path:
    return tmp_path / "share"


def refused(site: Site, tutorial: Tutorial, to: Path, name: str | None = "new") -> MedperfError:
    """The error, which must be the same without a dry run, and before anything is asked or uploaded."""
    before = len(site.audit.entries())
    found = []
    for dry_run in (True, False):
        with pytest.raises(MedperfError) as caught:
            publish(site, tutorial.model, to.as_uri(), name=name, dry_run=dry_run)
        found.append(caught.value)
    assert str(found[0]) == str(found[1]) and type(found[0]) is type(found[1])
    assert len(site.audit.entries()) == before
    return found[0]


def test_a_name_that_is_taken_is_found_first(shared: Tutorial, share: Path) -> None:
    with shared.site(approver=DenyAll()) as site:
        taken = next(iter(site.server.list(Container))).name
        error = refused(site, shared, share, taken)
    assert isinstance(error, InvalidEntityError) and error.problems == (
        f"there is something with the name {taken!r} already",
    )
    assert not share.exists()


def test_the_same_container_under_another_name_is_found_first(tutorial: Tutorial, tmp_path: Path, share: Path) -> None:
    with tutorial.site() as site:
        first = publish(site, tutorial.model, share.as_uri(), name="first").registered
        assert isinstance(first, Model) and first.container is not None
        error = refused(site, tutorial, tmp_path / "elsewhere", "second")
        assert isinstance(error, InvalidEntityError)
        [problem] = error.problems
        assert problem.startswith(f"MLCube {first.container.id} ('first') has the same image")
        assert not (tmp_path / "elsewhere").exists()
        again = publish(site, tutorial.model, share.as_uri(), name="first", dry_run=True)  # goes on, so is no refusal
        assert again.draft.name == "first" and all(each.there for each in again.files)


def test_an_identity_that_cannot_be_found_is_missed_first(
    shared: Tutorial, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medperf_core.journeys import submit

    def none(*args: object, **more: object) -> None:
        raise InvalidEntityError("No identity of the container's image could be found.")

    monkeypatch.setattr(submit, "image_identities", none)
    with shared.site(approver=DenyAll()) as site:
        assert "No identity" in refused(site, shared, share).message
    assert not share.exists()


@pytest.mark.parametrize("below", ["", "pub", "deep/er"])
def test_nothing_is_published_into_a_folder_of_data(below: str, tutorial: Tutorial, tmp_path: Path) -> None:
    patients = tmp_path / "patients"
    patients.mkdir()
    (patients / "cases.csv").write_text("1")
    (tmp_path / "link").symlink_to(patients)
    with tutorial.site(approver=DenyAll()) as site:
        site.data_folders.remember([patients])
        for folder in (patients, tmp_path / "link"):
            error = refused(site, tutorial, folder / below)
            assert isinstance(error, DeniedError) and "was used as data here" in error.message
            assert "was not used to publish to" in error.message
    assert [each.name for each in patients.iterdir()] == ["cases.csv"]


@pytest.mark.parametrize("part", ["mlcube", "mlcube/workspace/additional_files", "project/x"])
def test_nothing_is_published_into_the_container_itself(part: str, shared: Tutorial) -> None:
    folder = shared.model.parent / part
    with shared.site(approver=DenyAll()) as site:
        error = refused(site, shared, folder)
    assert isinstance(error, UsageError) and "the container's own folder" in error.message


@pytest.mark.parametrize("name", ["", "  "])
def test_a_name_has_to_be_one(name: str, shared: Tutorial, share: Path) -> None:
    with shared.site(approver=DenyAll()) as site:
        assert isinstance(refused(site, shared, share, name), UsageError)


def test_a_name_that_is_too_long_is_found_first(shared: Tutorial, share: Path) -> None:
    with shared.site(approver=DenyAll()) as site:
        assert "128" in str(refused(site, shared, share, "n" * 129))


def test_offline_a_folder_can_be_published_to(tutorial: Tutorial, share: Path) -> None:
    with tutorial.site(options=SiteOptions(offline=True)) as site:
        done = publish(site, tutorial.model, share.as_uri(), name="offline")
        assert done.registered is not None


def test_what_is_in_an_archive_is_shown(shared: Tutorial, share: Path) -> None:
    class Asked:
        body = b""

        def approve(self, what: str, target: str, body: bytes) -> bool:
            self.body = body
            return False

    asked, folder = Asked(), shared.model / "workspace" / "additional_files"
    made = [folder / f"zz-{number:02}.csv" for number in range(30)]
    for path in made:
        path.write_text(uuid.uuid4().hex)
    try:
        with shared.site(approver=asked) as site, pytest.raises(DeniedError):
            publish(site, shared.model, share.as_uri())
    finally:
        for path in made:
            path.unlink()
    listed = {each["file"]: each.get("holds") for each in json.loads(asked.body)}
    assert listed[PARAMETERS_FILE] is None
    holds = listed["additional_files.tar.gz"]
    assert holds["files"] > 30 and len(holds["names"]) == 20 and "zz-00.csv" in holds["names"]
    assert "main.py" in listed["project.tar.gz"]["names"]


def test_packing_tells_bytes(shared: Tutorial, share: Path) -> None:
    told: list[Event] = []
    with shared.site(on_event=told.append) as site:
        publish(site, shared.model, share.as_uri(), dry_run=True)
    steps = [each for each in told if isinstance(each, Progress) and each.what == "Packing project.tar.gz"]
    assert steps and steps[-1].total == steps[-1].done
    project = shared.model.parent / "project"
    assert steps[-1].done == sum(
        path.stat().st_size for path in project.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )


def test_what_was_registered_is_not_hashed_again(
    tutorial: Tutorial, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashed(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
        raise AssertionError(f"{path} was hashed again")

    with tutorial.site() as site:
        monkeypatch.setattr(cache_module, "file_digest", hashed)
        done = publish(site, tutorial.model, share.as_uri(), name="kept")
        assert all(site.cache.file(each.sha256) for each in done.files)
