"""What the kit of packagers does to good manifests: every place of one, and what others might write there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

Place = tuple[str | int, ...]

LEADS_OUT = "leads-out"
"""A link in the manifest's folder, and in every folder below it, to a folder that is none of its business."""


def _deep() -> Any:
    value: Any = "deep"
    for _ in range(30):
        value = [value]
    return value


NONSENSE: tuple[Any, ...] = (
    None,
    17,
    0.5,
    True,
    [],
    {},
    {"x": {}},
    [1] * 500,
    _deep(),
    "",
    "x" * 30_000,
    "\0",
    "\x1b[2J",
    "\u202e",
    "a\nb",
    "a,b:c",
    "..",
    "/",
    "$HOME",
    "${HOME}",
    "/etc/passwd",
    "../../outside",
    "x/../../../outside",
    LEADS_OUT,
    f"{LEADS_OUT}/Dockerfile",
    "-v /:/host --privileged",
)
"""Values that may stand anywhere in a manifest of a stranger."""

NAMES = ("", ".", "..", "../x", "/x", "a b", "a=b", "a,b", "a:b", "-x", "x\0", "x\n", "ü", "x" * 65, "{data_path}")
"""Words that make no label."""


def places(data: Any, at: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value of a manifest with its place, outer ones first."""
    yield at, data
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*at, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from places(value, (*at, index))


def maps(data: Any) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Every map of a manifest with its place."""
    for place, value in places(data):
        if isinstance(value, dict):
            yield place, value


def at(data: Any, place: Place) -> Any:
    """The value at a place."""
    for step in place:
        data = data[step]
    return data


def replaced(data: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """A copy with another value at a place, which may be a new key of a map."""
    new = copy.deepcopy(data)
    at(new, place[:-1])[place[-1]] = copy.deepcopy(value)
    return new


def renamed(data: dict[str, Any], place: Place, key: str, name: str) -> dict[str, Any]:
    """A copy in which a key of the map at ``place`` is called ``name``."""
    new = copy.deepcopy(data)
    target = at(new, place)
    entries = [(name if each == key else each, value) for each, value in target.items()]
    target.clear()
    target.update(entries)
    return new


def crossed(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Copies in which a key of one map stands in, or was moved to, a map beside it: an input among the outputs."""
    for place, value in maps(data):
        sides = [key for key, inner in value.items() if isinstance(inner, dict)]
        for one in sides:
            for other in sides:
                for key, content in value[one].items() if one != other else ():
                    both = replaced(data, (*place, other, key), content)
                    yield both
                    moved = copy.deepcopy(both)
                    del at(moved, (*place, one))[key]
                    yield moved
