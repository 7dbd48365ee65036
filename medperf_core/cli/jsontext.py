"""JSON bytes laid out for reading, with every token as it stands in the bytes."""

from __future__ import annotations

import re

INDENT = "  "
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+|\s+|"')


def indented(text: str) -> str:
    """``text``, which is JSON, with line ends and spaces between its tokens and nothing else changed.

    Numbers, escapes, the order of keys and repeated keys stay as they are, so that what is read is what is sent.
    """
    out: list[str] = []
    depth = 0
    opened = False
    for piece in _TOKEN.findall(text):
        if piece.isspace():
            continue
        closing = piece in ("}", "]")
        depth -= closing
        if (opened and not closing) or (closing and not opened):
            out.append("\n" + INDENT * depth)
        opened = piece in ("{", "[")
        depth += opened
        out.append(piece)
        if piece == ",":
            out.append("\n" + INDENT * depth)
        elif piece == ":":
            out.append(" ")
    return "".join(out)
