"""Text that came from elsewhere, made fit for a terminal."""

from __future__ import annotations

import re
import unicodedata

_DIGITS = re.compile(r"[0-9a-f]{32,}")
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?(?:Z|\+00:00)")


def printable(text: str, *, keep: str = "\n\t") -> str:
    """``text`` with each character that a terminal would act on (escapes, direction marks) written as ``\\uXXXX``.

    Args:
        keep: control characters that stay as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escaped(char) for char in text)


def moment(text: str) -> str:
    """A UTC time as people read it, to the second: ``2026-11-24 12:36:22Z``; other text as it is."""
    match = _MOMENT.fullmatch(text)
    return f"{match[1]} {match[2]}Z" if match else text


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def columns(text: str) -> int:
    """The number of terminal columns that a line of printable text takes."""
    if text.isascii():
        return len(text)
    return sum(_width(char) for char in text)


def fold(text: str, width: int) -> list[str]:
    """The lines of ``text``, each at most ``width`` columns wide, broken at spaces where there are any."""
    lines: list[str] = []
    for line in text.split("\n"):
        while columns(line) > width:
            cut = _cut(line, width)
            space = line.rfind(" ", 0, cut + 1)
            head, line = (line[:space], line[space + 1 :]) if space > 0 else (line[:cut], line[cut:])
            lines.append(head.rstrip())
        lines.append(line)
    return lines


def fit(text: str, width: int) -> str:
    """One line of printable text in at most ``width`` columns: long hashes are cut first, then what is in the middle,
    because an address begins with where it leads to and ends with the file's name."""
    if columns(text) <= width:
        return text
    text = _DIGITS.sub(lambda digits: f"{digits[0][:6]}…", text)
    if columns(text) <= width:
        return text
    tail = max(width * 2 // 3, 0)
    head = max(width - tail - 1, 0)
    reversed_tail = text[::-1]
    return f"{text[: _cut(text, head)]}…{reversed_tail[: _cut(reversed_tail, tail)][::-1]}"


def _cut(line: str, width: int) -> int:
    used = 0
    for index, char in enumerate(line):
        used += _width(char)
        if used > width:
            return max(index, 1)
    return len(line)


def _width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
