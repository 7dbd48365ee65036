"""All that the cache holds is listed and checked: kept steps and copies of backends as well as files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from medperf_core import Site
from medperf_core.entities import IdentityKind, ImageIdentity, SourceKind
from medperf_core.plugin.digest import path_digest, tree_digest
from medperf_core.plugin.kept import SUMS, is_intact, keeping, write_sums
from medperf_core.site.cache_contents import Sort, contents
from medperf_core.site.cache_gc import collect
from medperf_core.site.cache_verify import verify_all
from medperf_core.site.home import Home
from medperf_core.site.saved_images import SavedImages
from medperf_core.site.sizes import readable

IDENTITY = ImageIdentity(IdentityKind.CONFIG, f"sha256:{'1' * 64}")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a kept step, a copy named by its digest, one with sums, and one that says nothing."""
    with Site.open(tmp_path / "home") as site:
        step = site.cache_dir / "steps" / ("ab" * 32)
        (step / "outputs").mkdir(parents=True)
        (step / "outputs" / "result.yaml").write_text("auc: 0.9")
        outputs = {"results": {"path": "outputs/result.yaml", "digest": path_digest(step / "outputs" / "result.yaml")}}
        (step / "step.json").write_text(json.dumps({"record": {}, "outputs": outputs}))
        with keeping(site.cache_dir / "process"):
            new = site.cache_dir / "process" / "new"
            new.mkdir()
            (new / "main.py").write_text("pass")
            new.rename(new.with_name(tree_digest(new).removeprefix("sha256:")))
        with keeping(site.cache_dir / "engine" / "images"):
            for name in ("summed", "silent"):
                folder = site.cache_dir / "engine" / "images" / name
                folder.mkdir()
                (folder / "image.sif").write_bytes(b"image")
            write_sums(folder.with_name("summed"), {"image.sif": hashlib.sha256(b"image").hexdigest()})
        return site.home


def test_everything_is_listed(home: Home) -> None:
    found = {(item.sort, item.name.partition("/")[0]) for item in contents(home.cache_dir)}
    assert found == {(Sort.STEP, "ab" * 32), (Sort.COPY, "process"), (Sort.COPY, "engine")}
    names = {item.name for item in contents(home.cache_dir)}
    assert {"engine/images/summed", "engine/images/silent"} <= names


def test_what_is_whole_is_intact(home: Home) -> None:
    told: list[tuple[int, int]] = []
    done = verify_all(home, home.cache_dir, lambda *words: told.append(words))
    assert (done.intact, done.dropped, done.unknown) == (3, (), 1)
    assert told[-1] == (done.size, done.size) and len(told) == 5


@pytest.mark.parametrize("place", ["steps/*/outputs/result.yaml", "process/*/main.py", "engine/images/summed/*.sif"])
def test_what_was_changed_goes(place: str, home: Home) -> None:
    (path,) = home.cache_dir.glob(place)
    times = path.stat()
    path.write_bytes(b"X" * times.st_size)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = verify_all(home, home.cache_dir)
    assert len(done.dropped) == 1 and path.is_relative_to(done.dropped[0].path)
    assert not path.exists() and done.intact == 2
    assert verify_all(home, home.cache_dir).dropped == ()


def test_a_step_that_lost_its_record_goes(home: Home) -> None:
    (path,) = home.cache_dir.glob("steps/*/step.json")
    path.write_text("{}")
    assert [item.sort for item in verify_all(home, home.cache_dir).dropped] == [Sort.STEP]


@pytest.mark.parametrize("text", ["", "x", f"{'0' * 64}  ../../secret\n", f"{'0' * 64}  gone\n", "é"])
def test_sums_that_are_none_make_nothing_intact(text: str, tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text(text, encoding="utf-8")
    assert is_intact(tmp_path) is False


def test_a_link_to_what_was_freed_is_no_alarm(tmp_path: Path) -> None:
    write_sums(tmp_path, {"image.sif": "0" * 64})
    (tmp_path / "image.sif").symlink_to(tmp_path / "freed")
    assert is_intact(tmp_path) is None
    (tmp_path / "freed").write_bytes(b"another")
    assert is_intact(tmp_path) is False


def test_an_old_copy_one_folder_deeper_is_freed(home: Home) -> None:
    folder = home.cache_dir / "engine" / "images" / "summed"
    os.utime(folder, (1, 1))
    assert [item.name for item in collect(home).freed] == ["engine/images/summed"]
    assert not folder.exists() and folder.with_name("silent").exists()


def test_notes_of_saved_images_go_with_their_files(home: Home) -> None:
    with Site.open(home.path) as site:
        temporary = site.cache.temporary()
        temporary.write_bytes(b"saved")
        sha256 = hashlib.sha256(b"saved").hexdigest()
        site.cache.add(sha256, temporary)
        saved = SavedImages(site.cache_dir, site.cache)
        assert saved.find("docker", [IDENTITY]) is None
        saved.add("docker", [IDENTITY], sha256, SourceKind.ARCHIVE)
        assert saved.find("docker", [IDENTITY]) == (sha256, SourceKind.ARCHIVE)
        assert saved.find("singularity", [IDENTITY]) is None
    (note,) = (home.cache_dir / "saved").iterdir()
    collect(home)
    assert note.exists()
    os.utime(home.cache_dir / "files" / "files" / sha256[:2] / f"{sha256}.json", (1, 1))
    collect(home)
    collect(home)
    assert not note.exists()


def test_sizes_are_readable() -> None:
    sizes = (0, 1, 1023, 1024, 3 << 19, 5 << 30, 1 << 44)
    assert [readable(size) for size in sizes] == [
        "0 bytes", "1 byte", "1023 bytes", "1.0 KiB", "1.5 MiB", "5.0 GiB", "16.0 TiB",
    ]  # fmt: skip
