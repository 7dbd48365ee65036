"""Images written to files: what comes out can be verified and run elsewhere, and carries no names."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import attrs
import docker
import pytest

from medperf_core.entities import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import CancelledError, ExecutionError, VerificationError
from medperf_core.plugin import PreparedImage
from medperf_core.plugin.digest import file_digest


@pytest.fixture
def prepared(site: Any, own_image: str) -> PreparedImage:
    found: PreparedImage = site.runner().prepare(ImageSource(SourceKind.REGISTRY, own_image))
    return found


def test_a_saved_image_verifies_and_runs_on_the_other_side(site: Any, prepared: PreparedImage) -> None:
    folder = site.path("saved")
    path = site.runner().save(prepared, folder)
    assert list(folder.iterdir()) == [folder / "image.tar"] == [path]
    with tarfile.open(path) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        (entry,) = json.load(file)
    assert not entry["RepoTags"]
    site.client.remove_image(prepared.reference, force=True)
    archive = ImageIdentity(IdentityKind.ARCHIVE, f"sha256:{file_digest(path)}")
    config = next(each for each in prepared.identities if each.kind is IdentityKind.CONFIG)
    again = site.runner(offline=True).prepare(ImageSource(SourceKind.ARCHIVE, str(path)), [archive, config])
    assert {archive, config} <= set(again.identities)
    assert site.runner().run(again, site.request("echo ran")).tail == ("ran",)


def test_an_image_that_is_gone_leaves_no_file(site: Any, prepared: PreparedImage) -> None:
    site.client.remove_image(prepared.reference, force=True)
    folder = site.path("saved")
    with pytest.raises(ExecutionError, match="save the image"):
        site.runner().save(prepared, folder)
    assert list(folder.iterdir()) == []


def test_another_image_than_the_verified_one_is_noticed(site: Any, prepared: PreparedImage) -> None:
    folder = site.path("saved")
    other = attrs.evolve(prepared, identities=(ImageIdentity(IdentityKind.CONFIG, f"sha256:{'b' * 64}"),))
    with pytest.raises(VerificationError, match="something else"):
        site.runner().save(other, folder)
    assert list(folder.iterdir()) == []


def test_an_interrupted_one_leaves_no_file(site: Any, prepared: PreparedImage) -> None:
    folder = site.path("saved")
    runner = site.runner()
    site.cancel.cancel()
    with pytest.raises(CancelledError):
        runner.save(prepared, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("small", [False, True])
def test_a_full_disk_is_said_to_be_one(
    small: bool, site: Any, prepared: PreparedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:  # pieces that would fit into a buffer, which is written once more when the file is closed
        monkeypatch.setattr(docker.APIClient, "get_image", lambda *words, **more: iter([b"x" * 100]))
    folder = site.path("saved")
    (folder / "image.tar").symlink_to("/dev/full")
    real = Path.open

    def opened(self: Path, mode: str = "r", *words: Any, **more: Any) -> Any:
        return real(self, "wb" if mode == "xb" else mode, *words, **more)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(ExecutionError, match="No space left"):
        site.runner().save(prepared, folder)
