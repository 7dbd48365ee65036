"""Bundles that nobody in good faith makes: cut anywhere, sizes that lie, headers and indexes that fill the memory."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medperf_core.errors import InvalidEntityError, NotFoundError, VerificationError
from medperf_core.site.bundle_file import reading
from medperf_core.site.bundle_index import INDEX_LIMIT, INDEX_NAME, read_index
from medperf_core.site.tarstream import BLOCK, TarStream

from .bundles import Island, members, resigned, rewritten
from .conftest import Tutorial

REFUSED = (VerificationError, InvalidEntityError)


def walk(path: Path, *, skip: bool) -> None:
    """Read a bundle as loading does; or pass over all of its files."""
    with reading(path) as bundle:
        index = read_index(bundle.head.index, path.name)
        for entry in bundle.entries(index.entries):
            if not skip and hashlib.sha256(b"".join(bundle.content())).hexdigest() != entry.sha256:
                raise VerificationError("another file")


@pytest.mark.parametrize("skip", [False, True])
def test_cut_at_any_place(skip: bool, bundle: Path, tmp_path: Path) -> None:
    data, cut = bundle.read_bytes(), tmp_path / "cut.tar"
    walk(bundle, skip=skip)
    end = len(data) - 2 * BLOCK  # after it, nothing is left but the mark of the end
    blocks = range(0, end + 1, BLOCK)
    places = {*range(0, end, 331), *blocks, *(place - 1 for place in blocks[1:]), *(place + 1 for place in blocks)}
    for place in sorted(places):
        cut.write_bytes(data[:place])
        with pytest.raises(REFUSED):
            walk(cut, skip=skip)
            pytest.fail(f"cut at {place}, it was taken for whole")


def pax(**records: str) -> Callable[[tarfile.TarInfo], None]:
    """Gives a member an extended header."""
    return lambda item: setattr(item, "pax_headers", {key.replace("_", "."): value for key, value in records.items()})


HEADERS: dict[str, Callable[[tarfile.TarInfo], Any]] = {
    "a size beyond all disks": pax(size=str(1 << 62)),
    "a size beyond 64 bits": pax(size="9" * 30),
    "a negative size": pax(size="-1"),
    "a size that is no number": pax(size="many"),
    "a sparse file": pax(GNU_sparse_major="1", GNU_sparse_realsize="9" * 15),
    "a sparse file of the old kind": lambda item: setattr(item, "type", tarfile.GNUTYPE_SPARSE),
    "a header of megabytes": pax(comment="x" * (2 << 20)),
    "another name": pax(path="../../outside"),
    "an absolute name": pax(path="/etc/passwd"),
}


@pytest.mark.parametrize("where", [0, 1, 2, -1])
@pytest.mark.parametrize("what", HEADERS)
def test_headers_that_claim_what_no_file_has(
    what: str, where: int, bundle: Path, far: Island, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = rewritten(bundle, tmp_path / "changed.tar", lambda found: HEADERS[what](found[where][0]))
    largest, real = 0, TarStream._take

    def take(self: TarStream, size: int) -> bytes:
        nonlocal largest
        largest = max(largest, size)
        return real(self, size)

    monkeypatch.setattr(TarStream, "_take", take)
    with pytest.raises(REFUSED):
        far.load(changed)
    assert far.is_untouched and largest <= 1 << 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed.tar", "island"]


def test_a_signature_of_another_bundle_of_the_same_maker(
    shared: Tutorial, bundle: Path, far: Island, tmp_path: Path
) -> None:
    other = resigned(shared, bundle, tmp_path / "other.tar", lambda index: index.update(platforms=["docker"]))
    changed = rewritten(bundle, tmp_path / "c.tar", lambda found: found.__setitem__(0, members(other)[0]))
    with pytest.raises(VerificationError, match="signature is of another one"):
        far.load(changed)
    assert far.is_untouched
    far.load(other)


def drop(index: dict[str, Any], what: str) -> None:
    (*_, gone) = [entry for entry in index["entries"] if what in entry["what"]]
    index["entries"].remove(gone)


def other_image(index: dict[str, Any]) -> dict[str, Any]:
    """The recorded identity is that of a source tree."""
    sha256 = index["entries"][0]["sha256"]
    return {"container": 1, "kind": "archive", "sha256": sha256, "identities": ["source:sha256:" + "0" * 64]}


OTHERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another benchmark's name": lambda index: index.update(benchmark=2),
    "a benchmark of another UID": lambda index: index["benchmarks"][0].update(id=2),
    "another data preparator": lambda index: index["benchmarks"][0].update(data_preparation_mlcube=9),
    "another evaluator": lambda index: index["benchmarks"][0].update(data_evaluator_mlcube=9),
    "another reference model": lambda index: index["benchmarks"][0].update(reference_model=9),
    "no containers": lambda index: index.update(containers=[], images=[]),
    "another container as the reference model": lambda index: index["models"][0]["container"].update(id=9),
    "no demo dataset": lambda index: drop(index, "demo dataset"),
    "no project": lambda index: drop(index, "project of"),
    "no parameters": lambda index: drop(index, "parameters of"),
    "no additional files": lambda index: drop(index, "additional files of"),
    "an image that is recorded otherwise": lambda index: index.update(images=[other_image(index)]),
}


@pytest.mark.parametrize("what", OTHERS)
def test_an_index_whose_parts_do_not_belong_together(
    what: str, shared: Tutorial, bundle: Path, far: Island, tmp_path: Path
) -> None:
    changed = resigned(shared, bundle, tmp_path / "changed.tar", OTHERS[what])
    with pytest.raises(InvalidEntityError) as caught:
        far.load(changed)
    assert "not what its index says" not in str(caught.value)  # it is refused for what it says itself
    assert far.is_untouched


def test_an_index_of_ten_million_entries_is_refused_unparsed(
    bundle: Path, far: Island, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*words: object) -> None:
        pytest.fail("it was parsed")

    start = b'{"format":1,"entries":[' + b"{}," * ((INDEX_LIMIT - 100) // 3) + b"{}]}"
    assert len(start) <= INDEX_LIMIT
    monkeypatch.setattr("medperf_core.site.bundle_index.json.loads", nobody)
    with pytest.raises(InvalidEntityError, match="more parts"):
        read_index(start, "b.tar")
    monkeypatch.undo()
    entry = b'{"sha256":"' + b"0" * 64 + b'","size":1,"what":"x"},'
    item = tarfile.TarInfo(INDEX_NAME)
    item.size = 10_000_000 * len(entry)
    path = tmp_path / "many.tar"
    path.write_bytes(item.tobuf())
    os.truncate(path, item.size + 10 * BLOCK)  # a hole: the size is true
    with pytest.raises(InvalidEntityError, match="of a size"):
        far.load(path, allow=("unsigned",))


def test_a_pipe_is_not_waited_for(far: Island, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(NotFoundError, match="no file"):
        far.load(tmp_path / "pipe.tar")
