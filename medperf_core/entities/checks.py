"""Validators shared by the entities: lengths, digests, known words, plain JSON."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import attrs

from medperf_core.errors import InvalidEntityError

SHA256_HEX = re.compile(r"[0-9a-f]{64}")
TASK_OR_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]
MAX_JSON_DEPTH = 40


def text(maximum: int, *, blank: bool = True, lines: bool = False) -> Validator:
    """A string of at most ``maximum`` characters without control characters; tab and line ends only if ``lines``."""

    def check(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        name = attribute.name
        if not isinstance(value, str):
            raise InvalidEntityError(f"{name} must be text, not {type(value).__name__}.")
        if not blank and not value.strip():
            raise InvalidEntityError(f"{name} must not be blank.")
        if len(value) > maximum:
            raise InvalidEntityError(f"{name} has {len(value)} characters; at most {maximum} are allowed.")
        if any(unicodedata.category(char) == "Cc" and not (lines and char in "\t\n\r") for char in value):
            raise InvalidEntityError(f"{name} must not contain control characters{'' if lines else ' or line ends'}.")

    return check


def uid(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A positive whole number (a server UID), or None before the server has given one."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidEntityError(f"{attribute.name} is {value!r}; it must be a server UID (a whole number from 1).")


def required_uid(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A server UID that must be there."""
    if value is None:
        raise InvalidEntityError(f"{attribute.name} is required.")
    uid(instance, attribute, value)


def sha256(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """64 lower-case hexadecimal digits, or the empty string where there is no file."""
    if value != "" and not (isinstance(value, str) and SHA256_HEX.fullmatch(value)):
        raise InvalidEntityError(f"{attribute.name} is {value!r}; it must be a SHA-256 of 64 hexadecimal digits.")


def json_value(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A value that JSON can carry: None, text, finite numbers, booleans, lists, and maps with text keys."""
    problem = json_problem(value)
    if problem:
        raise InvalidEntityError(f"{attribute.name} {problem}.")


def json_problem(value: Any, where: str = "", depth: int = 0) -> str | None:
    """What keeps ``value`` from being plain JSON, in words; None if nothing does."""
    if depth > MAX_JSON_DEPTH:
        return f"is nested deeper than {MAX_JSON_DEPTH} levels"
    if value is None or isinstance(value, (str, bool, int)):
        return None
    if isinstance(value, float):
        finite = value == value and value not in (float("inf"), float("-inf"))
        return None if finite else f"holds the number {value} at {where or 'its top'}, which JSON cannot carry"
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"has the key {key!r} at {where or 'its top'}, which is not text"
            problem = json_problem(item, f"{where}.{key}" if where else key, depth + 1)
            if problem:
                return problem
        return None
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            problem = json_problem(item, f"{where}[{index}]", depth + 1)
            if problem:
                return problem
        return None
    return f"holds a {type(value).__name__} at {where or 'its top'}, which JSON cannot carry"
