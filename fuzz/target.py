"""What a target is, and how one input becomes structured values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs

T = TypeVar("T")


@attrs.frozen
class Target:
    """One parser, or one of its ways in.

    Attributes:
        name: what the command line calls it.
        run: gives the parser one input. It may raise errors of ``medperf_core.errors``, and write below the folder
            that it is given; an ``AssertionError`` says that a promise was broken.
        seeds: inputs to start from.
        words: pieces of text that inputs are made of.
        longest: bytes of an input.
        network: whether the parser goes on to open connections. They all fail; where they would have led is checked
            by the target.
    """

    name: str
    run: Callable[[bytes, Path], None]
    seeds: Callable[[], Iterable[bytes]]
    words: tuple[str, ...] = ()
    longest: int = 4096
    network: bool = False


class Draw:
    """Reads decisions off an input; once it is used up, every decision is the first choice."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        """The next bytes, fewer at the end."""
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def rest(self) -> bytes:
        return self.take(self.left)

    def number(self, below: int) -> int:
        """A number from 0 to ``below - 1``."""
        size = max(1, (below - 1).bit_length() + 7 >> 3)
        return int.from_bytes(self.take(size), "little") % below

    def flag(self) -> bool:
        return self.number(2) == 1

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.number(len(choices))]

    def text(self, words: Sequence[str], longest: int = 24) -> str:
        """One of the words, or free text, or both after one another."""
        match self.number(4):
            case 0 | 1:
                return self.pick(words)
            case 2:
                return self.take(self.number(longest)).decode("utf-8", "replace")
            case _:
                return self.pick(words) + self.take(self.number(8)).decode("utf-8", "surrogateescape")

    def value(self, words: Sequence[str], depth: int = 6) -> Any:
        """Plain JSON with keys and text of the given words."""
        kind = self.number(12)
        if depth == 0 or self.left == 0:
            kind = min(kind, 7)
        match kind:
            case 0 | 1 | 2:
                return self.text(words)
            case 3:
                return self.pick((0, 1, -1, 2, 255, 1 << 31, 1 << 63, 10**30, 10**400))
            case 4:
                return self.pick((0.5, -0.0, 1e308, 1.0))
            case 5:
                return self.flag()
            case 6:
                return None
            case 7:
                return self.pick(("", {}, []))
            case 8 | 9 | 10:
                return {self.text(words): self.value(words, depth - 1) for _ in range(self.number(6))}
            case _:
                return [self.value(words, depth - 1) for _ in range(self.number(5))]
