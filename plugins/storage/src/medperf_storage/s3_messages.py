"""What S3 answers about uploads in parts, read with care: https://docs.aws.amazon.com/AmazonS3/latest/API/

Answers are hostile until they are checked, so they are searched for what is wanted, never parsed as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from html import unescape

import attrs

_UPLOAD_ID = re.compile(r"<UploadId>\s*([\x21-\x25\x27-\x3b\x3d-\x7e]{1,1024})\s*</UploadId>")
_ETAG = re.compile(r'"?([A-Za-z0-9._-]{1,128})"?')
_NEXT = re.compile(r"<IsTruncated>\s*true\s*</IsTruncated>", re.IGNORECASE)
_CODE = re.compile(r"[A-Za-z]{1,60}")
_NUMBER = re.compile(r"[0-9]{1,19}")


@attrs.frozen
class Part:
    """A part that a server has: its size in bytes, and its ETag in quotes."""

    size: int
    etag: str


@attrs.frozen
class Upload:
    """An upload that was neither completed nor removed."""

    name: str
    key: str
    begun: datetime


@attrs.frozen
class Completed:
    """Whether parts were put together.

    Attributes:
        etag: of the object, in quotes; "" if it was not told.
        error: the code of one; it may come after a good status, as servers begin to answer before they are done.
    """

    done: bool = False
    etag: str = ""
    error: str = ""


def etag_of(text: str) -> str:
    """The ETag of a part or an object of parts, in quotes; "" if it is none."""
    found = _ETAG.fullmatch(text.strip())
    return f'"{found[1]}"' if found else ""


def upload_id(answer: bytes) -> str:
    """The ID of an upload that was begun; "" if there is none."""
    found = _UPLOAD_ID.search(answer.decode("utf-8", "replace"))
    return found[1] if found else ""


def parts(answer: bytes) -> tuple[Mapping[int, Part], int]:
    """The parts of an answer to ListParts by their numbers, and the number after which to ask on; 0 at the end."""
    text = answer.decode("utf-8", "replace")
    found: dict[int, Part] = {}
    for each in _each(text, "Part"):
        number, size, etag = _word(each, "PartNumber"), _word(each, "Size"), etag_of(_word(each, "ETag"))
        if _NUMBER.fullmatch(number) and _NUMBER.fullmatch(size) and etag:
            found[int(number)] = Part(int(size), etag)
    return found, max(found, default=0) if _NEXT.search(text) else 0


def uploads(answer: bytes) -> list[Upload]:
    """The uploads of an answer to ListMultipartUploads."""
    found = []
    for each in _each(answer.decode("utf-8", "replace"), "Upload"):
        name = _UPLOAD_ID.search(each)
        try:
            begun = datetime.fromisoformat(_word(each, "Initiated"))
        except ValueError:
            continue
        if name is not None and begun.tzinfo is not None:
            found.append(Upload(name[1], _word(each, "Key"), begun))
    return found


def completed(answer: bytes) -> Completed:
    """What an answer to CompleteMultipartUpload says."""
    text = answer[: 1 << 16].decode("utf-8", "replace")
    if "<Error>" in text:
        code = _word(text, "Code")
        return Completed(error=code if _CODE.fullmatch(code) else "error")
    return Completed(done="<CompleteMultipartUploadResult" in text, etag=etag_of(_word(text, "ETag")))


def complete(etags: list[str]) -> bytes:
    """The order to put parts together."""
    listed = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in enumerate(etags, start=1)
    )
    return f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()


def _word(text: str, name: str) -> str:
    return unescape(next(_each(text, name), "")).strip()


def _each(text: str, name: str) -> Iterator[str]:
    """What stands in the elements of a name."""
    for each in text.split(f"<{name}>")[1:]:
        inside, closed, _ = each.partition(f"</{name}>")
        if closed:
            yield inside
