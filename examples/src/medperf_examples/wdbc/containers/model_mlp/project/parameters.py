"""Strict reader of a flat `key: value` parameters file; each value is JSON or a bare word.

The accepted text is a subset of YAML, so any YAML reader sees the same content.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

LINE = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*):[ ]+(\S.*?)\s*$")
WORD = re.compile(r"^[A-Za-z_][A-Za-z0-9_.-]*$")


class ParameterError(Exception):
    """The parameters file cannot be used."""


def read(path: Path | None, defaults: dict[str, Any]) -> dict[str, Any]:
    """The defaults overlaid with the file; unknown keys and other types than the default's are refused."""
    values = dict(defaults)
    if path is None:
        return values
    seen = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path.name}, line {number}"
        match = LINE.match(line)
        if match is None:
            raise ParameterError(f"{where}: expected 'key: value', got {line!r}")
        key, text = match.groups()
        if key not in defaults:
            raise ParameterError(f"{where}: unknown parameter {key!r}")
        if key in seen:
            raise ParameterError(f"{where}: parameter {key!r} is given twice")
        seen.add(key)
        values[key] = _typed(_value(text, where), defaults[key], f"{where}: {key}")
    return values


def _value(text: str, where: str) -> Any:
    text = re.sub(r"\s+#.*$", "", text)
    try:
        return json.loads(text)
    except ValueError:
        if WORD.match(text):
            return text
        raise ParameterError(f"{where}: {text!r} is neither JSON nor a plain word") from None


def _typed(value: Any, default: Any, where: str) -> Any:
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise ParameterError(f"{where} must be of type {type(default).__name__}, not {type(value).__name__}")
    return value
