"""Reads build files line by line, for runners that look into them or carry them out themselves.

Format: the Dockerfile reference (https://docs.docker.com/reference/dockerfile/): comments, continued lines, options of
an instruction, variables. Here-documents and other escape characters than the backslash are not read.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping

import attrs

from medperf_core.errors import InvalidEntityError

SIZE_LIMIT = 1 << 20
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}|\$(\w+)", re.ASCII)


@attrs.frozen
class Instruction:
    """One instruction.

    Attributes:
        name: in capital letters, such as ``COPY``.
        options: its words that begin with ``--``.
        rest: what follows them, with continued lines joined.
        line: number of its first line, from 1.
    """

    name: str
    options: tuple[str, ...]
    rest: str
    line: int

    def words(self) -> tuple[str, ...]:
        """``rest`` as words: a JSON list, or words with quotes as in a shell.

        Raises:
            InvalidEntityError: a quotation does not end.
        """
        listed = self.listed()
        if listed is not None:
            return listed
        try:
            return tuple(shlex.split(self.rest))
        except ValueError as error:
            raise InvalidEntityError(f"Line {self.line} of the build file cannot be read: {error}.") from error

    def listed(self) -> tuple[str, ...] | None:
        """``rest`` if it is a JSON list of words, which is not for a shell; else None."""
        if not self.rest.startswith("["):
            return None
        try:
            found = json.loads(self.rest)
        except (ValueError, RecursionError):
            return None
        return tuple(found) if isinstance(found, list) and all(isinstance(word, str) for word in found) else None


def instructions(text: str) -> Iterator[Instruction]:
    """The instructions of a build file, in order.

    Raises:
        InvalidEntityError: it is longer than any real one.
    """
    if len(text) > SIZE_LIMIT:
        raise InvalidEntityError(f"The build file has more than {SIZE_LIMIT} characters.")
    pending, start = "", 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        if line.lstrip().startswith("#"):
            continue  # also in the middle of a continued line
        if not pending:
            start = number
        continued = re.fullmatch(r"(.*)\\[ \t]*", line)
        if continued:
            pending += f"{continued[1]} "
            continue
        words, pending = f"{pending}{line}".strip(), ""
        if words:
            yield _instruction(words, start)


def _instruction(words: str, line: int) -> Instruction:
    name, _, rest = words.partition(" ") if " " in words else words.partition("\t")
    options = []
    rest = rest.strip()
    while rest.startswith("--"):
        option, _, rest = rest.partition(" ")
        options.append(option)
        rest = rest.lstrip()
    return Instruction(name.upper(), tuple(options), rest, line)


def substitute(text: str, values: Mapping[str, str]) -> str:
    """``text`` with ``$NAME``, ``${NAME}`` and ``${NAME:-DEFAULT}`` replaced; what has no value stays as it is.

    Raises:
        InvalidEntityError: it would become longer than a build file may be: variables can double each other.
    """
    length = len(text)

    def value(found: re.Match[str]) -> str:
        nonlocal length
        name, default = found[1] or found[3], found[2]
        put = values.get(name) or default or ("" if name in values else found[0])
        length += len(put)
        if length > SIZE_LIMIT:
            raise InvalidEntityError(f"A variable of the build file, {name[:100]}, grows beyond all measure.")
        return put

    return _VARIABLE.sub(value, text)
