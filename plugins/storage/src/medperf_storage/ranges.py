"""Versions of files and parts of answers, as RFC 9110 has them (sections 8.8, 13.1.5, 14.4 and 15.3.7)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

_ETAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"')
_DATE = re.compile(r"[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT")
_PART = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
SETTLED_SECONDS = 60
"""A file that was changed less than this before it was sent may have been changed twice within the same second."""


def is_version(text: str) -> bool:
    """Whether a text may be sent as ``If-Range``."""
    return bool(_ETAG.fullmatch(text) or _DATE.fullmatch(text))


def strong_version(headers: Mapping[str, str]) -> str:
    """What names exactly these bytes at this server: a strong ETag or, only without any ETag, the time of the last
    change, if that was long enough ago. "" if there is nothing that can be relied on."""
    if etag := headers.get("ETag", "").strip():
        return etag if _ETAG.fullmatch(etag) else ""
    changed, sent = headers.get("Last-Modified", "").strip(), headers.get("Date", "").strip()
    if not (_DATE.fullmatch(changed) and _DATE.fullmatch(sent)):
        return ""
    try:
        age = parsedate_to_datetime(sent) - parsedate_to_datetime(changed)
    except ValueError:
        return ""
    return changed if age.total_seconds() >= SETTLED_SECONDS else ""


def whole_size(headers: Mapping[str, str]) -> int | None:
    """Bytes that an answer announces; None if it does not, or not in a way to rely on."""
    text = headers.get("Content-Length", "")
    if "Transfer-Encoding" in headers or not (text.isascii() and text.isdigit() and len(text) < 19):
        return None
    return int(text)


def asking_for(version: str, first: int, last: int | None = None) -> dict[str, str]:
    """Headers that ask for the bytes from ``first`` to ``last`` or to the end, if the file is still of ``version``;
    and else for all of it."""
    return {"Range": f"bytes={first}-{'' if last is None else last}", "If-Range": version}


def part_size(
    headers: Mapping[str, str], version: str, first: int, last: int | None = None, size: int | None = None
) -> int | None:
    """Size of the whole file, from an answer (206) to a request for a part; None if it is not exactly that part of
    that file.

    Args:
        version: of the file.
        first: offset of the part's first byte.
        last: offset of its last byte; None for the end of the file.
        size: of the file; None if it is not known.
    """
    found = _PART.fullmatch(headers.get("Content-Range", "").strip())
    if found is None:
        return None
    came_first, came_last, total = (int(each) for each in found.groups())
    if came_first != first or came_last != (total - 1 if last is None else last) or came_last >= total:
        return None
    if size is not None and total != size:
        return None
    if "Content-Length" in headers and whole_size(headers) != came_last - came_first + 1:
        return None
    if version.startswith('"'):
        same = headers.get("ETag", "").strip() == version
    else:
        # An answer with a part need not repeat the time of the last change.
        same = headers.get("Last-Modified", version).strip() == version
    return total if same else None
