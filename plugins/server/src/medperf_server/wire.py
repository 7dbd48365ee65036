"""The wire format of 2026: bodies of requests to plain data, entities and back. Knows no transport."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

import attrs

from medperf_core.entities import Asset, Association, Benchmark, Container, Dataset, Model, Result, State, User
from medperf_core.entities.codec import from_data, to_data, to_json
from medperf_core.errors import InvalidEntityError, UsageError
from medperf_server.rules.common import Kind, RefusedError, label
from medperf_server.rules.fields import normalised, on_create, on_update

T = TypeVar("T")

PATHS: dict[Kind, str] = {
    User: "users",
    Container: "mlcubes",
    Asset: "assets",
    Model: "models",
    Dataset: "datasets",
    Benchmark: "benchmarks",
    Result: "results",
}
KINDS = {path: kind for kind, path in PATHS.items()}


def new_body(thing: Any) -> bytes:
    """The body that registers ``thing``: what its submitter gives, and nothing that the server makes.

    Raises:
        InvalidEntityError: it says something that a new entity cannot say, such as a dataset in OPERATION.
    """
    return to_json(_new(thing))


def _new(thing: Any) -> dict[str, Any]:
    kind = type(thing)
    names = on_create(kind)
    if isinstance(thing, Dataset) and thing.state is not State.DEVELOPMENT:
        raise InvalidEntityError(
            f"Dataset {thing.name!r} cannot be registered in {thing.state}: "
            "a new dataset is in DEVELOPMENT and becomes operational by an update."
        )
    data = {name: value for name, value in to_data(thing).items() if name in names}
    if isinstance(thing, (Model, Association)):
        pair = ("container", "asset") if isinstance(thing, Model) else ("model", "dataset")
        for name in pair:
            part = getattr(thing, name)
            data[name] = _new(part) if attrs.has(type(part)) else part
        data = {name: value for name, value in data.items() if name not in pair or value is not None}
    return data


def changes_body(kind: Kind, changes: Mapping[str, Any]) -> bytes:
    """The body that changes these fields.

    Raises:
        UsageError: a field does not exist or only the server sets it.
        InvalidEntityError: a value is not JSON.
    """
    unknown = sorted(set(changes) - on_update(kind))
    if unknown:
        raise UsageError(
            f"The {', '.join(unknown)} of a {label(kind)} cannot be changed.",
            hint=f"These can: {', '.join(sorted(on_update(kind)))}.",
        )
    try:
        return to_json(dict(changes))
    except (TypeError, ValueError) as error:
        raise InvalidEntityError(f"This change of a {label(kind)} cannot be sent: {error}.") from error


def read_changes(body: bytes) -> dict[str, Any]:
    """The changes that a body asks for, as plain data that the rules have still to judge.

    Raises:
        RefusedError: it is not a JSON object.
    """
    try:
        data = json.loads(body, parse_constant=_no_such_number)
        json.dumps(data, ensure_ascii=False).encode()  # half a surrogate pair cannot be written anywhere
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"The registry refuses a body that is not JSON in UTF-8: {error}.") from error
    if not isinstance(data, dict):
        raise RefusedError(f"The registry refuses a body that is a {type(data).__name__}, not a JSON object.")
    return data


def read_new(kind: type[T], body: bytes) -> T:
    """The entity that a body asks to register. What only the server makes, and unknown keys, are passed over.

    Raises:
        RefusedError: it does not describe one; all problems are listed.
    """
    data = read_changes(body)
    try:
        fields = normalised(kind, data, on_create(kind))
        for name, nested in (("container", Container), ("asset", Asset)):
            if kind is Model and isinstance(fields.get(name), dict):
                fields[name] = normalised(nested, fields[name], on_create(nested))
        return from_data(fields, kind)
    except InvalidEntityError as error:
        raise RefusedError(
            f"The registry refuses this {label(kind)}:", problems=error.problems or (error.message,)
        ) from error


def _no_such_number(word: str) -> NoReturn:
    raise ValueError(f"JSON has no {word}")
