"""``docker save`` files that were made to deceive: what is verified must be what the engine gets, without any name."""

from __future__ import annotations

import gzip
import io
import json
import posixpath
import tarfile
from pathlib import Path

import pytest
from medperf_docker.archive import nameless

from fuzz.targets.archives import entry, image_archive, tar_of
from medperf_core.errors import VerificationError
from medperf_core.plugin import BackendContext
from medperf_core.plugin.image_archive import read


def sent(path: Path) -> dict[str, bytes]:
    """The files that the engine would get, by name."""
    context = BackendContext(cache_dir=path.parent, temp_dir=path.parent)
    _, found = read(path, context)
    stream = io.BytesIO(b"".join(nameless(path, found[0], context, "loading")))
    with tarfile.open(fileobj=stream) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}  # type: ignore[union-attr]


INDEX = json.dumps(
    {"manifests": [{"digest": "sha256:" + "0" * 64, "annotations": {"io.containerd.image.name": "victim:latest"}}]}
).encode()


@pytest.mark.parametrize(
    "name", ["././index.json", "x/../index.json", "./x/.././index.json", "index.json/", ".//repositories"]
)
def test_no_spelling_of_a_name_reaches_the_engine(tmp_path: Path, name: str) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(image_archive(oci=False, change={name: INDEX}))
    try:
        got = sent(path)
    except VerificationError:
        return
    for inside, content in got.items():
        assert posixpath.normpath(inside) == inside
        assert inside != "repositories" and b"victim" not in content


def test_a_name_in_an_extended_header_is_looked_at_too(tmp_path: Path) -> None:
    info = tarfile.TarInfo("harmless.txt")
    info.pax_headers = {"path": "././index.json"}
    info.size = len(INDEX)
    whole = image_archive(oci=False)[: -2 * 512] + tar_of([(info, INDEX)])
    path = tmp_path / "image.tar"
    path.write_bytes(whole)
    try:
        assert not any(b"victim" in content for content in sent(path).values())
    except VerificationError:
        pass


@pytest.mark.parametrize(
    "index",
    [b" []", b'\n{"manifests": 1}', b" {", b"[1]", b" " + b"[" * 5000, b'\xef\xbb\xbf{"manifests": [1]}'],
)
def test_an_index_that_cannot_be_read_is_refused_in_words(tmp_path: Path, index: bytes) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(image_archive(oci=False, change={"index.json": index}))
    with pytest.raises(VerificationError):
        sent(path)


@pytest.mark.parametrize("name", ["index.json", "manifest.json", "repositories"])
def test_what_is_written_anew_is_no_configuration(tmp_path: Path, name: str) -> None:
    said = json.dumps([{"Config": name, "RepoTags": None, "Layers": []}]).encode()
    index = json.dumps({"manifests": []}).encode()
    path = tmp_path / "image.tar"
    documents = {"repositories": b"{}", "index.json": index, "manifest.json": said}
    path.write_bytes(tar_of(entry(each, content) for each, content in documents.items()))
    with pytest.raises(VerificationError):
        sent(path)


@pytest.mark.parametrize("kind", [b" ", b"Q", b"3", b"4", b"6", b"1", b"2", b"7"])
def test_no_header_hides_what_follows_it(tmp_path: Path, kind: bytes) -> None:
    """One with a size but no content would have the engine go on in the middle of the next file, where a forged
    archive waits."""
    forged = tar_of([entry("index.json", INDEX)])
    hiding, _ = entry("hiding", kind=kind, link="file")
    hiding.size = 1024
    content = bytes(1024) if kind in b" Q7" else b""
    whole = tar_of([(hiding, content), entry("carrier", bytes(512) + forged)])[: -2 * 512] + image_archive(oci=False)
    path = tmp_path / "image.tar"
    path.write_bytes(whole)
    try:
        got = sent(path)
    except VerificationError:
        return
    assert "index.json" not in got and len(got["carrier"]) == 512 + len(forged)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x"])
def test_members_outside_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(image_archive(change={name: b"x"}))
    with pytest.raises(VerificationError, match="no part of an image"):
        sent(path)


def header_of(kind: bytes, size: int) -> bytes:
    info, _ = entry("x", kind=kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_of_any_size_takes_no_memory(tmp_path: Path, kind: bytes) -> None:
    import tracemalloc

    path = tmp_path / "image.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(header_of(kind, 256 << 20))
        for _ in range(256):
            stream.write(bytes(1 << 20))
    context = BackendContext(cache_dir=tmp_path, temp_dir=tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(VerificationError):
            read(path, context)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_headers_without_end_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes((header_of(tarfile.GNUTYPE_LONGNAME, 2) + b"a\0".ljust(512, b"\0")) * 3000)
    with pytest.raises(VerificationError):
        read(path, BackendContext(cache_dir=tmp_path, temp_dir=tmp_path))


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("s")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    info.size = 12
    for map_of_it in (b"1\n0\n3\nabc...", b"x\n0\n3\nabc...", b"9" * 12):
        path = tmp_path / "image.tar"
        path.write_bytes(tar_of([(info, map_of_it)]) + image_archive())
        with pytest.raises(VerificationError):
            read(path, BackendContext(cache_dir=tmp_path, temp_dir=tmp_path))
