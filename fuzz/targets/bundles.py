"""Bundles: their index, their signature, and the file around both."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
from medperf_core.entities import Benchmark, Container, Model
from medperf_core.entities.checks import SHA256_HEX
from medperf_core.entities.codec import to_data
from medperf_core.site.bundle_file import Head, reading
from medperf_core.site.bundle_index import (
    INDEX_NAME,
    SIGNATURE_NAME,
    BundleEntry,
    BundleIndex,
    read_index,
    signer,
    write_index,
    write_signature,
)
from medperf_core.site.bundles import BundleStore, bundled_images
from medperf_core.site.home import Home

from fuzz.target import Draw, Target

CONTENT = b"weights"
HASH = hashlib.sha256(CONTENT).hexdigest()
MAKER = "SHA256:" + "A" * 43


@lru_cache(maxsize=1)
def _index() -> bytes:
    """A true index of one file, which is an image."""
    container = Container(id=1, owner=1, name="c", container_config={})
    index = BundleIndex(
        benchmark=1,
        server="https://host",
        maker=MAKER,
        created_at="2026-01-02T03:04:05Z",
        platforms=["docker"],
        benchmarks=[
            Benchmark(
                id=1,
                owner=1,
                name="b",
                demo_dataset_tarball_url="https://host/demo",
                demo_dataset_tarball_hash=HASH,
                demo_dataset_generated_uid="x",
                data_preparation_mlcube=1,
                reference_model=1,
                data_evaluator_mlcube=1,
            )
        ],
        models=[attrs.evolve(Model.wrapping(container), id=1, owner=1)],
        containers=[container],
        entries=[BundleEntry(sha256=HASH, size=len(CONTENT), what="image")],
        images=[],
    )
    document = to_data(index)
    document["images"] = [{"container": 1, "kind": "archive", "sha256": HASH, "identities": [f"config:sha256:{HASH}"]}]
    return write_index(read_index(json.dumps(document).encode(), "seed"))


def _check(index: BundleIndex, folder: Path) -> None:
    assert read_index(write_index(index), "again") == index
    assert all(SHA256_HEX.fullmatch(entry.sha256) for entry in index.entries)
    kept = BundleStore(Home(folder)).add("profile", write_index(index))
    assert kept.index == index
    for container in index.containers:
        for _, image, identity in bundled_images([kept], container):
            assert image.container == container.id and identity.digest == f"sha256:{image.sha256}"
    assert BundleStore(Home(folder)).remove("profile", kept.name) == kept


def run_index(data: bytes, folder: Path) -> None:
    """Any index; or a true one in which some values are others."""
    if data[:1] != b"=":
        _check(read_index(data, "bundle"), folder)
        return
    draw, document = Draw(data[1:]), json.loads(_index())
    for _ in range(1 + draw.number(4)):
        place: Any = document
        for _ in range(draw.number(5)):
            inner = list(place.values()) if isinstance(place, dict) else place
            deeper = [each for each in inner if isinstance(each, (dict, list)) and each]
            place = draw.pick(deeper) if deeper else place
        keys: Any = sorted(place) if isinstance(place, dict) else range(len(place))
        place[draw.pick(keys)] = draw.value(WORDS)
    _check(read_index(json.dumps(document).encode("utf-8", "surrogatepass"), "bundle"), folder)


def run_signature(data: bytes, folder: Path) -> None:
    """Any signature beside a true index: none of them is the maker's."""
    found = signer(data, _index(), "bundle")
    assert found != MAKER


def run_file(data: bytes, folder: Path) -> None:
    """A bundle of any bytes, read to its end."""
    file = folder / "b.tar"
    file.write_bytes(data)
    with reading(file) as bundle:
        head = bundle.head
        index = read_index(head.index, "bundle")
        if head.signature is not None:
            signer(head.signature, head.index, "bundle")
        for entry in bundle.entries(index.entries):
            assert sum(map(len, bundle.content())) == entry.size
        _check(index, folder)


def _tar(*members: tuple[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in members:
            item = tarfile.TarInfo(name)
            item.size = len(content)
            tar.addfile(item, io.BytesIO(content))
    return data.getvalue()


def index_seeds() -> Iterable[bytes]:
    return (_index(), b"{}", b"[]", b"=", b"=\1\2\3\4\5\6\7", b"=" + bytes(range(40)), b'{"format": 1}')


def signature_seeds() -> Iterable[bytes]:
    return (write_signature(bytes(32), bytes(64)), b"{}", b"[", b'{"key": "", "signature": ""}')


def file_seeds() -> Iterable[bytes]:
    signature = write_signature(bytes(32), bytes(64))
    return (
        _tar((INDEX_NAME, _index()), (HASH, CONTENT)),
        _tar((SIGNATURE_NAME, signature), (INDEX_NAME, _index()), (HASH, CONTENT)),
        Head(None, _index()).tar(),
        _tar((SIGNATURE_NAME, signature)),
        b"",
    )


WORDS = (
    "format", "benchmark", "server", "maker", "entries", "images", "sha256", "size", "what", "kind", "archive", "sif",
    "tree", HASH, MAKER, "../../etc/passwd", "config:sha256:" + HASH, "2026-01-02T03:04:05Z", "key", "signature",
    SIGNATURE_NAME, INDEX_NAME, "owner", "id",
)  # fmt: skip

TARGETS = (
    Target("bundle-index", run_index, index_seeds, WORDS),
    Target("bundle-signature", run_signature, signature_seeds, WORDS, longest=512),
    Target("bundle-file", run_file, file_seeds, WORDS, longest=8192),
)
