"""SIFs written to files: what comes out is pinned by its hash and runs on another site without conversion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from medperf_singularity import store

from medperf_core.entities import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import CancelledError, ExecutionError, VerificationError
from medperf_core.plugin import PreparedImage, StepStarted
from medperf_core.plugin.digest import file_digest


@pytest.fixture
def prepared(place: Any, make_image: Callable[..., Any], tmp_path: Path) -> PreparedImage:
    image = make_image(Entrypoint=["/bin/echo", "so"])
    image.save(tmp_path / "image.tar")
    found: PreparedImage = place.runner().prepare(ImageSource(SourceKind.ARCHIVE, str(tmp_path / "image.tar")))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "saved"
    made.mkdir()
    return made


def test_a_saved_sif_verifies_and_needs_no_conversion(place: Any, prepared: PreparedImage, folder: Path) -> None:
    path = place.runner().save(prepared, folder)
    assert list(folder.iterdir()) == [folder / "image.sif"] == [path]
    identity = ImageIdentity(IdentityKind.SIF, f"sha256:{file_digest(path)}")
    place.events.clear()
    again = place.runner().prepare(ImageSource(SourceKind.SIF, str(path)), [identity])
    assert again.identities == (identity,) and again.command == prepared.command
    assert place.told(StepStarted, "Converting") == []


def test_what_was_built_of_a_tree_says_how_it_is_run(
    place: Any, make_image: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    """The SIF of a build does not say it by itself."""
    make_image(Entrypoint=["/bin/echo", "base"]).save(tmp_path / "base.tar")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "note").write_text("hello")
    (tree / "Dockerfile").write_text(
        'ARG BASE\nFROM ${BASE}\nCOPY note /data/note\nENV WORD="a b"\nWORKDIR /etc\nENTRYPOINT ["/bin/echo", "it"]\n'
    )
    runner = place.runner({"build_args": (f"BASE={tmp_path / 'base.tar'}",)})
    built = runner.prepare(ImageSource(SourceKind.TREE, str(tree), dockerfile="Dockerfile"))
    path = place.runner().save(built, folder)
    assert list(folder.iterdir()) == [path]
    again = place.runner().prepare(ImageSource(SourceKind.SIF, str(path)))
    assert again.command == built.command == ("/bin/echo", "it")
    one, other = (store.describe(place.context(), each) for each in (built, again))
    assert one == other and (one.working_dir, one.env["WORD"]) == ("/etc", "a b")


def test_a_linked_sif_is_copied_whole(place: Any, prepared: PreparedImage, folder: Path, tmp_path: Path) -> None:
    path = place.runner().save(prepared, folder)
    linked = place.runner().prepare(ImageSource(SourceKind.SIF, str(path)))
    (tmp_path / "again").mkdir()
    copy = place.runner().save(linked, tmp_path / "again")
    assert not copy.is_symlink() and copy.read_bytes() == path.read_bytes()


def test_a_changed_sif_is_not_saved(place: Any, prepared: PreparedImage, folder: Path) -> None:
    sif = Path(prepared.reference)
    sif.chmod(0o600)
    with sif.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"X")
    with pytest.raises(VerificationError, match="changed"):
        place.runner().save(prepared, folder)
    assert list(folder.iterdir()) == []
    with pytest.raises(ExecutionError, match="no longer in the cache"):
        place.runner().save(prepared, folder)


def test_an_interrupted_one_leaves_no_file(place: Any, prepared: PreparedImage, folder: Path) -> None:
    place.cancel.cancel()
    with pytest.raises(CancelledError):
        place.runner().save(prepared, folder)
    assert list(folder.iterdir()) == []
