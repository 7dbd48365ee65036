"""How large files are divided, how much of them is in memory, and what is read of the server's answers."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from medperf_core.errors import CancelledError
from medperf_core.plugin import CancelToken
from medperf_storage import s3_messages
from medperf_storage.s3_parts import MAX_PARTS, PART, part_size
from medperf_storage.upload_notes import Begun, noting
from medperf_storage.uploads import Body, Memory, Sent

MIB = 1 << 20
LIMIT = 5 << 40
"""Bytes of the largest object of S3."""


@pytest.mark.parametrize("size", [1, PART, MAX_PARTS * PART - 1, MAX_PARTS * PART, 84 * 10**9, LIMIT - 1, LIMIT])
def test_no_file_has_too_many_parts(size: int) -> None:
    part = part_size(size)
    assert -(-size // part) <= MAX_PARTS
    assert part % MIB == 0 and PART <= part <= 5 << 30
    assert part == PART or (part - MIB) * MAX_PARTS < size


def test_one_byte_more_than_fits_makes_larger_parts() -> None:
    assert part_size(MAX_PARTS * PART) == PART
    assert part_size(MAX_PARTS * PART + 1) == PART + MIB


def test_memory_is_given_to_as_many_as_fit() -> None:
    memory, most, held, lock = Memory(10), [0], [0], threading.Lock()

    def work(count: int) -> None:
        with memory.held(count, CancelToken()):
            with lock:
                held[0] += count
                most[0] = max(most[0], held[0])
            with lock:
                held[0] -= count

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [4, 5, 3, 10, 1] * 100))
    assert most[0] <= 10 and held[0] == 0
    with memory.held(11, CancelToken()):  # more than there is: alone
        token = CancelToken()
        token.cancel()
        with pytest.raises(CancelledError):
            memory.take(1, token.raise_if_cancelled)


def test_several_large_uploads_share_the_memory_of_one(s3_bucket: Any, front: Any, person: Any) -> None:
    """Eight uploads of one store hold at most what one may."""
    store = s3_bucket.store(person.context, endpoint=front.url)
    memory = store.remote(store.address(s3_bucket.url("k"))).memory
    most, take = [0], memory.take

    def taken(count: int, meanwhile: Any) -> None:
        take(count, meanwhile)
        most[0] = max(most[0], memory._held)

    memory.take = taken
    content = bytes(20 * MIB)

    def put(number: int) -> int:
        path = person.folder / f"large-{number}"
        path.write_bytes(content)
        request = person.request(s3_bucket.url(f"k{number}"), path)
        return int(store.put(request, lambda count: None).size)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(put, range(8))) == {len(content)}
    assert 8 * MIB < most[0] <= 64 * MIB
    assert memory._held == 0


def test_a_body_is_the_same_in_any_pieces() -> None:
    content, before, after = bytes(range(200)), b"<before>", b"<after>"
    for most in (1, 3, 8, 9, 100, 1000):
        told: list[int] = []
        body = Body(content, Sent(told.append), telling=True, before=before, after=after)
        for _ in range(2):
            body.rewind()
            assert b"".join(iter(lambda body=body, most=most: bytes(body.read(most)), b"")) == before + content + after
        assert sum(told) == len(content) and len(body) == 215


def test_parts_are_read_page_by_page() -> None:
    part = "<Part><PartNumber>{}</PartNumber><ETag>&quot;e{}&quot;</ETag><Size>5</Size></Part>"
    page = "".join(part.format(each, each) for each in (1, 2))
    found, after = s3_messages.parts(f"<A><IsTruncated>true</IsTruncated>{page}</A>".encode())
    assert (after, found[2]) == (2, s3_messages.Part(5, '"e2"'))
    assert s3_messages.parts(page.encode())[1] == 0
    hostile = b"<Part>" * 100_000 + b"<Part><PartNumber>-1</PartNumber></Part><Part><PartNumber>" + b"9" * 99
    assert s3_messages.parts(hostile) == ({}, 0)


def test_every_page_of_parts_is_asked_for(s3_bucket: Any, front: Any, person: Any) -> None:
    """Servers tell of at most 1,000 parts at once."""
    asked: list[str] = []

    def instead(method: str, path: str) -> Any:
        asked.append(path)
        number = len(asked)
        part = f"<Part><PartNumber>{number}</PartNumber><ETag>e</ETag><Size>1</Size></Part>"
        more = "true" if number < 3 else "false"
        return 200, {}, f"<ListPartsResult><IsTruncated>{more}</IsTruncated>{part}</ListPartsResult>".encode()

    from medperf_storage.s3_multipart import Multipart
    from medperf_storage.uploads import Source

    front.instead = instead
    store = s3_bucket.store(person.context, endpoint=front.url)
    path = person.folder / "file"
    path.write_bytes(b"x")
    request = person.request(s3_bucket.url("k"), path)
    with Source(request) as source:
        upload = Multipart(store.remote(store.address(request.url)), request, source, lambda count: None)
        assert sorted(upload.there(Begun("id", 1, request.sha256)) or ()) == [1, 2, 3]
    assert [each.partition("?")[2].partition("&")[0] for each in asked] == [
        "part-number-marker=0",
        "part-number-marker=1",
        "part-number-marker=2",
    ]


def test_uploads_and_completions_are_read() -> None:
    moment = datetime(2026, 11, 24, 18, 37, 10, 338000, tzinfo=UTC)
    text = (
        "<Upload><Key>a&amp;b</Key><UploadId>2~x</UploadId><Initiated>2026-11-24T18:37:10.338Z</Initiated></Upload>"
        "<Upload><Key>c</Key><UploadId>y</UploadId><Initiated>yesterday</Initiated></Upload><Upload>"
    )
    assert s3_messages.uploads(text.encode()) == [s3_messages.Upload("2~x", "a&b", moment)]
    result = "<CompleteMultipartUploadResult>{}</CompleteMultipartUploadResult>"
    for etag in ('"ab-2"', "&quot;ab-2&quot;", "ab-2"):
        text = result.format(f"<ETag>{etag}</ETag>")
        assert s3_messages.completed(text.encode()) == s3_messages.Completed(True, '"ab-2"')
    assert s3_messages.completed(result.format("<ETag></ETag>").encode()) == s3_messages.Completed(True)
    assert s3_messages.completed(b"<Error><Code>a b</Code></Error>") == s3_messages.Completed(error="error")
    assert s3_messages.completed(b"<html>") == s3_messages.Completed()


def test_a_note_belongs_to_one_upload_at_a_time(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"").hexdigest()
    with noting(tmp_path / "n", "a") as first, noting(tmp_path / "n", "b") as other:
        first.begin(Begun("x", 1, digest))
        first.mark(1, "one")
        assert first.kept and other.kept
        with noting(tmp_path / "n", "a") as second:
            assert not second.kept and not second.begun
            second.begin(Begun("y", 1, digest))
            second.gone(second.begun[0])
    with noting(tmp_path / "n", "a") as later:
        assert later.begun == [Begun("x", 1, digest, {1: "one"})]
        later.gone(later.begun[0])
    assert not list((tmp_path / "n").iterdir())


def test_an_upload_goes_on_without_a_note(s3_bucket: Any, person: Any) -> None:
    """Where no file can be written."""
    folder = person.context.cache_dir
    folder.mkdir()
    (folder / "s3").write_text("not a folder")
    content = bytes(9 * MIB)
    assert person.put(s3_bucket.store(person.context), s3_bucket.url("k"), content).size == len(content)
