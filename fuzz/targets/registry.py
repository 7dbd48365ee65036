"""What servers and clients say to each other, and entities and records as data."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medperf_core.entities import (
    Asset,
    Association,
    Benchmark,
    Container,
    ContainerSpec,
    Dataset,
    Model,
    Result,
    TestReport,
    User,
)
from medperf_core.entities.codec import from_data, to_data, to_json
from medperf_core.errors import InvalidEntityError
from medperf_core.plugin.executor import TaskJob
from medperf_core.plugin.runner import TaskOutcome
from medperf_server import wire

from fuzz.target import Target

WIRE = (User, Container, Asset, Model, Dataset, Benchmark, Result, Association)
KINDS: tuple[type[Any], ...] = (*WIRE, TestReport, ContainerSpec, TaskJob, TaskOutcome)
HASH = "a" * 64
EXAMPLES: tuple[dict[str, Any], ...] = (
    {"username": "u", "email": "u@example.org", "metadata": {}},
    {
        "name": "c", "container_config": {"tasks": {"infer": {}}}, "image_hash": HASH, "parameters_config": {},
        "additional_files_tarball_url": "https://h/f", "additional_files_tarball_hash": HASH, "state": "OPERATION",
    },
    {"name": "a", "asset_hash": HASH, "asset_url": "https://h/f", "state": "OPERATION"},
    {"name": "m", "type": "CONTAINER", "container": {"name": "c", "container_config": {}, "state": "OPERATION"}},
    {
        "name": "d", "description": "", "location": "", "input_data_hash": HASH, "generated_uid": HASH,
        "data_preparation_mlcube": 1, "split_seed": 0, "generated_metadata": {}, "state": "DEVELOPMENT",
    },
    {
        "name": "b", "description": "", "docs_url": "", "demo_dataset_tarball_url": "https://h/f",
        "demo_dataset_tarball_hash": HASH, "demo_dataset_generated_uid": HASH, "data_preparation_mlcube": 1,
        "reference_model": 1, "data_evaluator_mlcube": 2, "metadata": {},
    },
    {"name": "r", "benchmark": 1, "model": 1, "dataset": 1, "results": {"auc": 0.5}, "metadata": {}},
    {"benchmark": 1, "model": 2, "approval_status": "PENDING", "metadata": {}},
)  # fmt: skip
_NAMES = {f'"{name}"' for example in EXAMPLES for name in example}
_VALUES = (
    "null",
    "true",
    "NaN",
    "Infinity",
    "1e999",
    "9" * 30,
    "\\ud800",
    "\\u0000",
    '"sha256:',
    "OPERATION",
    "{",
    "[",
)
WORDS = (*sorted(_NAMES), '"id"', '"owner"', '"priority"', '"steps"', *_VALUES)


def _seeds() -> Iterable[bytes]:
    for number, example in enumerate(EXAMPLES):
        yield bytes([number]) + json.dumps(example).encode()
        yield bytes([number, 32]) + json.dumps({**example, "id": 1, "owner": 2, "more": 1}).encode()
    yield b"\0" + b"[" * 5000
    yield b"\0" + b'{"id": ' + b"9" * 5000 + b"}"
    for number in range(len(EXAMPLES), len(KINDS)):
        yield bytes([number]) + b"{}"


def run_wire(data: bytes, folder: Path) -> None:
    kind, body = WIRE[data[0] % len(WIRE)] if data else User, data[1:]
    changes = wire.read_changes(body)
    assert isinstance(changes, dict)
    thing = wire.read_new(kind, body)
    try:
        said = wire.new_body(thing)
    except InvalidEntityError:
        return  # such as a dataset that says it is operational
    assert wire.new_body(wire.read_new(kind, said)) == said, "the wire changes what it carries"


def run_entities(data: bytes, folder: Path) -> None:
    kind, body = KINDS[data[0] % len(KINDS)] if data else User, data[1:]
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError):
        return  # readers of JSON are fuzzed where they are: wire, site-records
    thing = from_data(plain, kind, allow_unknown=True)
    try:
        text = to_json(thing)
    except (UnicodeEncodeError, ValueError):
        # half a surrogate pair, or a number that is none, in a free field; whoever reads JSON refuses both
        assert "\\u" in body.decode("utf-8", "replace") or b"NaN" in body or b"Infinity" in body or b"e" in body
        return
    assert to_json(from_data(json.loads(text), kind)) == text
    assert from_data(to_data(thing), kind) == thing


TARGETS = (
    Target("wire", run_wire, _seeds, WORDS),
    Target("entities", run_entities, _seeds, WORDS),
)
