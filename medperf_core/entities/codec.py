"""Entities and records to plain data and back, on cattrs; the one place that knows how.

Outside data is structured strictly: a wrong type or, unless asked otherwise, an unknown key is an error that names
the place (``tasks[0].images``).
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, TypeVar

from medperf_core.errors import InvalidEntityError, MedperfError

T = TypeVar("T")


@lru_cache(maxsize=2)
def _converter(forbid_unknown: bool) -> Any:
    from cattrs.preconf.json import make_converter  # here: commands that decode nothing do not pay for it

    converter = make_converter(forbid_extra_keys=forbid_unknown, detailed_validation=True)
    for kind in (str, int, float, bool):
        converter.register_structure_hook(kind, _exactly(kind))
    return converter


def _exactly(kind: type) -> Any:
    def structure(value: Any, _: Any) -> Any:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise TypeError(f"{value!r} is not of type {kind.__name__}")
        return value

    return structure


def to_data(thing: Any) -> Any:
    """Plain dicts, lists, text and numbers that say all of ``thing``, an attrs instance or a container of them."""
    return _converter(True).unstructure(thing)


def from_data(data: Any, kind: type[T], *, allow_unknown: bool = False) -> T:
    """The ``kind`` that ``data`` describes.

    Args:
        data: what ``to_data`` gave, or the same from outside.
        kind: an attrs class.
        allow_unknown: skip keys that the class does not have, as for replies of newer servers.

    Raises:
        InvalidEntityError: it does not describe one; all problems are listed with their places.
    """
    from cattrs import transform_error

    try:
        structured: T = _converter(not allow_unknown).structure(data, kind)
    except MedperfError:
        raise
    except Exception as error:
        try:
            lines = transform_error(error) if isinstance(error, ExceptionGroup) else [str(error)]
        except TypeError:  # cattrs cannot list unknown keys that are not text
            lines = ["a key is not text"]
        problems = [_plain(line) for line in lines]
        raise InvalidEntityError(f"This is not a valid {kind.__name__}:", problems=problems) from error
    return structured


def _plain(line: str) -> str:
    words, _, place = line.partition(" @ $")
    own = re.fullmatch(r"unknown error \((.*)\)", words, re.DOTALL)  # a rule of ours, which says it in its own words
    place = place.lstrip(".")
    return (own[1].rstrip(".") if own else words) + (f" at {place}" if place else "")


def to_json(thing: Any) -> bytes:
    """Canonical JSON of an entity or of plain data: UTF-8, sorted keys, no spaces; the form that is hashed."""
    data = to_data(thing)
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
