"""New entities for the kit of server clients: each field that a submitter gives is filled in."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import attrs

from medperf_core.entities import (
    Asset,
    AutoApproval,
    Benchmark,
    Container,
    Dataset,
    Model,
    ModelType,
    State,
)
from medperf_core.entities.codec import to_data

ODD: dict[str, Any] = {
    "text": 'ü "quoted" <&> \\ \u2028 \U0001f600',
    "numbers": [0, -1, 2**53 - 1, 0.5, 1e-9],
    "yes": True,
    "nothing": None,
    "empty": [{}, [], ""],
    "a key of nobody": {"nested": {"deeper": [1, [2, [3]]]}},
}
"""Plain JSON that no server knows; nothing of it may be lost."""
SERVER_MADE = frozenset(
    {"id", "owner", "created_at", "modified_at", "approved_at", "approval_status", "finalized", "finalized_at"}
)


def digest(of: str) -> str:
    """A SHA-256 that is another one for each text."""
    return hashlib.sha256(of.encode()).hexdigest()


def metadata(**more: Any) -> dict[str, Any]:
    """Metadata with a client UUID of its own."""
    return {"client_uuid": str(uuid.uuid4()), "odd": ODD, **more}


def container(name: str, **fields: Any) -> Container:
    """A container with additional files and parameters."""
    given: dict[str, Any] = {
        "container_config": {"name": name, "tasks": {"infer": {"x": ODD}}},
        "parameters_config": {"threshold": 0.5, "odd": ODD},
        "image_hash": f"sha256:{digest(name)}",
        "additional_files_tarball_url": f"https://files.example.org/{digest(name)[:8]}.tar.gz",
        "additional_files_tarball_hash": digest(f"files of {name}"),
        "metadata": metadata(),
        "user_metadata": {"odd": ODD},
    }
    return Container(name=name, **{**given, **fields})


def model(name: str, **fields: Any) -> Model:
    """A model that wraps a new container."""
    return attrs.evolve(Model.wrapping(container(name, **fields)), user_metadata={"odd": ODD})


def asset_model(name: str) -> Model:
    """A model that wraps files without a container."""
    asset = Asset(name=name, asset_hash=digest(name), asset_url="https://files.example.org/a", metadata=metadata())
    return Model(name=name, type=ModelType.ASSET, asset=asset, metadata=metadata())


def dataset(name: str, preparator: int, **fields: Any) -> Dataset:
    """A dataset that a container with this UID prepared."""
    given: dict[str, Any] = {
        "description": "two lines\nof text",
        "location": "Ward 7",
        "input_data_hash": digest(f"raw {name}"),
        "generated_uid": digest(f"prepared {name}"),
        "split_seed": 3,
        "data_preparation_mlcube": preparator,
        "generated_metadata": {"cases": 12, "odd": ODD},
        "metadata": metadata(),
        "user_metadata": {"odd": ODD},
    }
    return Dataset(name=name, **{**given, **fields})


def benchmark(name: str, preparator: int, evaluator: int, reference: int, **fields: Any) -> Benchmark:
    """A benchmark of operational parts."""
    given: dict[str, Any] = {
        "description": "finds nodules",
        "docs_url": "https://benchmark.example.org/docs",
        "demo_dataset_tarball_url": "https://files.example.org/demo.tar.gz",
        "demo_dataset_tarball_hash": digest(f"demo {name}"),
        "demo_dataset_generated_uid": digest(f"prepared demo {name}"),
        "data_preparation_mlcube": preparator,
        "data_evaluator_mlcube": evaluator,
        "reference_model": reference,
        "state": State.OPERATION,
        "dataset_auto_approval_mode": AutoApproval.NEVER,
        "model_auto_approval_mode": AutoApproval.ALLOWLIST,
        "model_auto_approval_allow_list": ["partner@example.org"],
        "metadata": metadata(),
        "user_metadata": {"odd": ODD},
    }
    return Benchmark(name=name, **{**given, **fields})


def given(thing: Any) -> dict[str, Any]:
    """What the submitter said of an entity, as plain data, without what the server makes."""
    data = {name: value for name, value in to_data(thing).items() if name not in SERVER_MADE}
    for name in ("container", "asset"):
        if isinstance(inner := getattr(thing, name, None), (Container, Asset)):
            data[name] = given(inner)
    return data
