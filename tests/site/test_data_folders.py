"""What counts as data is never uploaded: whatever it is called, linked to or mounted as, and wherever it was moved."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.errors import ConfigurationError, DeniedError
from medperf_core.site import data_search, file_identity, mounts
from medperf_core.site.cache_place import Place, write_marker, write_place
from medperf_core.site.data_folders import DataFolders
from medperf_core.site.data_search import LIST_FILE, DataSearch, Root
from medperf_core.site.file_identity import FileIdentity, identity_of
from medperf_core.site.home import Home
from medperf_core.site.mounts import Mounts


@attrs.frozen
class Place_:
    """A home, patients' data, and a container beside them."""

    home: Home
    folders: DataFolders
    data: Path
    container: Path

    def refused(self, *paths: Path, match: str = "data never leave this site") -> str:
        with pytest.raises(DeniedError, match=match) as refused:
            self.folders.refuse(paths or [self.container], "uploaded")
        return str(refused.value)

    def allowed(self, *paths: Path) -> None:
        self.folders.refuse(paths or [self.container], "uploaded")


@pytest.fixture
def place(tmp_path: Path) -> Place_:
    home = Home.open(tmp_path / "home")
    data, container = tmp_path / "hospital" / "patients", tmp_path / "containers" / "model"
    for folder in (data / "site1" / "scans", container / "weights"):
        folder.mkdir(parents=True)
    (data / "cases.csv").write_text("id\n1\n")
    (data / "site1" / "scans" / "1.dcm").write_text("scan")
    (container / "weights" / "w.bin").write_text("w")
    folders = DataFolders(home)
    folders.remember([data])
    found = Place_(home, folders, data, container)
    found.allowed()
    found.allowed(data.with_name("patients2"))  # a name that only begins the same, and that is not there
    return found


# --- paths --------------------------------------------------------------------------------------------------------


def test_data_their_parts_and_what_holds_them(place: Place_, tmp_path: Path) -> None:
    for path in (place.data, place.data / "cases.csv", place.data / "later" / "x", place.data.parent, tmp_path):
        assert f"{path} was not uploaded: {place.data} was used as data here" in place.refused(path)
    with pytest.raises(DeniedError, match="patients was not put into a bundle"):
        place.folders.refuse([place.container, place.data], "put into a bundle")


def test_what_is_gone_is_not_in_the_folder_that_held_it(place: Place_) -> None:
    output = place.container / "out"
    output.mkdir()
    place.folders.remember([output])
    place.refused(match="out was used as data here")
    output.rmdir()
    place.allowed()
    output.mkdir()
    place.refused(match="out was used as data here")
    shutil.rmtree(output)
    place.refused(output)


def test_the_home_and_the_cache_are_this_site_s(place: Place_, tmp_path: Path) -> None:
    for path in (place.home.path / "cache" / "steps" / "key" / "outputs", place.home.path, place.home.keys_dir):
        assert f"{place.home.path} is where this site keeps its keys" in place.refused(path)
    cache, old = tmp_path / "disk" / "cache", tmp_path / "old"
    for folder in (cache, old):
        folder.mkdir(parents=True)
    write_place(place.home.path, Place(cache, "0" * 32, old))  # not there now: no marker
    for folder in (cache, old):
        place.refused(folder / "steps" / "key", match="where this site keeps")


def test_parts_of_the_home_on_another_disk(place: Place_, tmp_path: Path) -> None:
    disk, steps = tmp_path / "disk", tmp_path / "steps"
    steps.mkdir()
    (place.home.path / "cache").rename(disk)
    (place.home.path / "cache").symlink_to(disk)
    (disk / "steps").symlink_to(steps)
    for path in (disk, steps / "key"):
        place.refused(path, match="where this site keeps")


def test_homes_and_caches_that_were_moved_are_known_by_what_is_in_them(place: Place_, tmp_path: Path) -> None:
    write_place(place.home.path, Place(tmp_path / "lost", "0" * 32))
    for name in ("copy", "containers/model/weights/copy"):
        copy = shutil.copytree(place.home.path, tmp_path / name)
        (copy / "cache" / "steps").mkdir()
        place.refused(copy / "cache" / "steps", match="prepared data")
        place.refused(copy if name == "copy" else place.container, match="prepared data")
        shutil.rmtree(copy)
    write_marker(place.container / "weights", "1" * 32, whole=True)
    place.refused(match="prepared data")
    place.refused(place.container / "weights" / "w.bin", match="prepared data")


# --- links --------------------------------------------------------------------------------------------------------


def test_links_at_any_level(place: Place_, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(place.data)
    place.refused(tmp_path / "link")
    place.refused(tmp_path / "link" / "cases.csv")
    deep = place.container / "weights" / "a" / "b"
    deep.mkdir(parents=True)
    for target in (place.data, place.data / "cases.csv", tmp_path / "link" / "site1", place.data.parent):
        (deep / "l").symlink_to(target)
        assert f"{deep / 'l'} leads to " in place.refused()
        (deep / "l").unlink()
    (deep / "inside").symlink_to("../..")
    (deep / "circle").symlink_to("circle")
    (deep / "nowhere").symlink_to("/nowhere/at/all")
    place.allowed()


def test_data_known_by_a_link(place: Place_, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "name").symlink_to(real)
    place.folders.remember([tmp_path / "name"])
    place.refused(real)
    place.refused(tmp_path / "name")


def test_hard_links(place: Place_) -> None:
    named = place.container / "weights" / "p.csv"
    os.link(place.data / "cases.csv", named)
    assert f"{named} is the same file as {place.data / 'cases.csv'}" in place.refused()
    place.refused(named, match="is the same file as")
    named.unlink()
    os.link(place.container / "weights" / "w.bin", place.container / "weights" / "v.bin")
    os.link(place.container / "weights" / "w.bin", place.container.parent / "elsewhere.bin")
    place.allowed()


def test_data_are_gone_through_only_for_a_file_with_a_name_elsewhere(
    place: Place_, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone_through: list[str] = []
    real = data_search._walk

    def walk(top: str, unreadable: list[str] | None) -> Any:
        gone_through.append(top)
        return real(top, unreadable)

    monkeypatch.setattr(data_search, "_walk", walk)
    os.link(place.container / "weights" / "w.bin", place.container / "weights" / "v.bin")
    place.allowed()
    assert gone_through == [str(place.container)]
    os.link(place.container / "weights" / "w.bin", place.container.parent / "elsewhere.bin")
    place.allowed()
    assert str(place.data) in gone_through[2:] and str(place.home.path) in gone_through[2:]


def test_data_that_cannot_be_read_are_not_taken_for_harmless(place: Place_, monkeypatch: pytest.MonkeyPatch) -> None:
    real, closed = os.scandir, str(place.data / "site1")

    def scandir(path: str) -> Any:
        if path == closed:  # as for another user; root may read everything
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    place.allowed()
    os.link(place.container / "weights" / "w.bin", place.container.parent / "elsewhere.bin")
    assert f"{closed} cannot be read to see whether" in place.refused()


# --- other names --------------------------------------------------------------------------------------------------


def test_renamed_and_moved_data(place: Place_, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("1\n")
    place.folders.remember([labels])
    moved = place.data.rename(place.container / "weights" / "extra")
    said = place.refused()
    assert f"{moved} is {place.data} under another name" in said
    for path in (moved, moved / "site1" / "scans", moved / "cases.csv"):
        place.refused(path, match="under another name")
    moved.rename(tmp_path / "away")
    place.allowed()
    labels.rename(place.container / "weights" / "l.csv")
    place.refused(match="under another name")


def test_what_was_moved_away_and_made_anew_counts_both(place: Place_, tmp_path: Path) -> None:
    moved = place.data.rename(tmp_path / "first")
    place.data.mkdir()
    place.folders.remember([place.data])
    again = place.data.rename(tmp_path / "second")
    for path in (moved, again, place.data):
        place.refused(path)
    assert place.folders.known() == (str(place.data),)


def test_a_number_that_a_deleted_folder_had_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """File systems give the number of a deleted folder to the next one, and disks other numbers after a restart."""
    folder = tmp_path / "f"
    folder.mkdir()
    now = identity_of(str(folder))
    assert now is not None and now.born
    gone = str(tmp_path / "gone")
    same = attrs.evolve(now, device=now.device + 1)
    assert DataSearch([Root(gone, same)]).why_not(str(folder))
    assert not DataSearch([Root(gone, attrs.evolve(now, born=now.born - 1))]).why_not(str(folder))
    # where a file system does not know when
    assert DataSearch([Root(gone, attrs.evolve(now, born=None))]).why_not(str(folder))
    assert not DataSearch([Root(gone, attrs.evolve(same, born=None))]).why_not(str(folder))
    monkeypatch.setattr(file_identity, "_born", lambda path, status: None)
    assert DataSearch([Root(gone, now)]).why_not(str(folder))
    assert not DataSearch([Root(gone, same)]).why_not(str(folder))


def test_when_a_file_was_made_is_what_the_system_says(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("x")
    (tmp_path / "link").symlink_to(file)
    for path in (file, tmp_path, tmp_path / "link"):
        said = subprocess.run(["stat", "-c", "%d %i %.9W", path], capture_output=True, text=True, check=True).stdout
        device, inode, born = said.split()
        found = identity_of(str(path))
        assert found == FileIdentity(int(device), int(inode), int(born.replace(".", "")))
    assert identity_of(str(tmp_path / "none")) is None


# --- mounts -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a bind mount")
@pytest.mark.parametrize("part", [".", "site1", "site1/scans/1.dcm", ".."])
def test_bind_mounts(place: Place_, part: str) -> None:
    seen = place.container / "weights" / "mounted here"
    source = place.data / part
    if source.is_dir():
        seen.mkdir()
    else:
        seen.touch()
    subprocess.run(["mount", "--bind", source, seen], check=True)
    try:
        place.refused()
        place.refused(seen)
        if source.is_dir():
            place.refused(seen / next(source.iterdir()).name)
    finally:
        subprocess.run(["umount", seen], check=True)
    place.allowed()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a bind mount")
def test_one_folder_seen_twice_where_mounts_are_not_listed(place: Place_, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that takes small letters for capitals, or has one folder in two places by itself."""
    monkeypatch.setattr(mounts, "FILE", Path("/nowhere"))
    (place.home.records_dir / LIST_FILE).write_text(json.dumps([str(place.data)]))
    seen = place.container / "weights" / "seen"
    seen.mkdir()
    for folder in (place.data, place.home.path):
        subprocess.run(["mount", "--bind", folder, seen], check=True)
        try:
            place.refused(match=f"is {folder} under another name")
            place.refused(seen / "x" / "y", match=f"is {folder} under another name")
        finally:
            subprocess.run(["umount", seen], check=True)


TABLE = rb"""
21 1 254:0 / / rw - ext4 /dev/vda rw
30 21 254:16 / /data\040disk rw shared:5 - ext4 /dev/vdb rw
31 21 254:16 /study/site1 /srv/model rw shared:5 master:2 - ext4 /dev/vdb rw
32 21 0:45 / /net/data rw - nfs4 nas:/data rw
33 21 0:45 / /net/models rw - nfs4 nas:/models rw
34 21 0:45 /p /net/bound rw - nfs4 nas:/data rw
35 21 254:32 / /srv/model/over rw - ext4 /dev/vdc rw
not a line of it
1 2 3 4 5 6
"""


@pytest.mark.parametrize(
    ("data", "other", "same"),
    [
        ("/data disk/study", "/srv/model/x", True),
        ("/data disk/study/site1/x", "/srv/model", True),
        ("/data disk/study/site1", "/srv", True),
        ("/data disk/study/site2", "/srv/model", False),
        ("/data disk/study/site1", "/srv/model/over/x", False),
        ("/net/data/p", "/net/bound/x", True),
        ("/net/data", "/net/models", False),  # one number for two folders of a server
        ("/data", "/data disk", False),
        ("/", "/srv/models", True),
    ],
)
def test_one_folder_by_two_paths(data: str, other: str, same: bool) -> None:
    found = Mounts.parse(TABLE)
    pairs = [(one, two) for one in found.places(data) for two in found.places(other)]
    assert any(one.overlaps(two) for one, two in pairs) is same
    assert Mounts().places(data) == []


# --- the list -----------------------------------------------------------------------------------------------------


def test_what_is_known_already_is_not_written_again(place: Place_, tmp_path: Path) -> None:
    file = place.home.records_dir / LIST_FILE
    before = file.stat()
    place.folders.remember([place.data, place.data / "..", place.data / "."][::2])
    place.folders.remember([])
    assert file.stat().st_ino == before.st_ino
    place.folders.remember([tmp_path / "not there"])
    place.folders.remember([tmp_path / "not there"])
    assert [entry["path"] for entry in json.loads(file.read_text())] == [str(place.data), str(tmp_path / "not there")]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_list_of_mere_paths_is_read_too(place: Place_) -> None:
    file = place.home.records_dir / LIST_FILE
    file.write_text(json.dumps([str(place.data), {"path": "/somewhere"}]))
    place.refused(place.data)
    place.folders.remember([place.data])
    assert place.folders.known() == ("/somewhere", str(place.data))
    place.refused(place.data.rename(place.container / "moved"), match="under another name")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '"/a"',
        '{"/a": 1}',
        "[1]",
        "[null]",
        '["relative"]',
        '["/a\\u0000"]',
        '[{"path": 1}]',
        '[{"inode": 1}]',
        '[{"path": "/a", "inode": 1}]',
        '[{"path": "/a", "device": "1", "inode": 1}]',
        '[{"path": "/a", "device": null, "inode": 1}]',
        '[{"path": "/a", "device": 1, "inode": 1, "more": 1}]',
        "[" * 100_000,
    ],
)
def test_a_damaged_list_lets_nothing_leave(place: Place_, text: str) -> None:
    (place.home.records_dir / LIST_FILE).write_text(text)
    with pytest.raises(ConfigurationError, match="Nothing is uploaded"):
        place.allowed()
    with pytest.raises(ConfigurationError, match="damaged"):
        place.folders.remember([place.data])
