"""The tables. Constraints here are a second net below the rules, which give the reasons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    func,
)

from medperf_core.entities import Asset, Association, Benchmark, Container, Dataset, Model, Result, User

SCHEMA_VERSION = 1
METADATA = MetaData()
_NUMBER = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up an INTEGER PRIMARY KEY only
_JSON = JSON(none_as_null=True)


def _refers(name: str, table: str, *, required: bool = True) -> Column[Any]:
    return Column(name, _NUMBER, ForeignKey(f"{table}.id"), nullable=not required, index=True)


def _texts(**lengths: int) -> Iterator[Column[Any]]:
    return (Column(name, String(length), nullable=False) for name, length in lengths.items())


def _maps(*names: str) -> Iterator[Column[Any]]:
    return (Column(name, _JSON, nullable=False) for name in names)


def _table(name: str, *columns: Any) -> Table:
    return Table(
        name,
        METADATA,
        Column("id", _NUMBER, primary_key=True),
        _refers("owner", "users"),
        *_texts(created_at=32, modified_at=32),
        Column("is_valid", Boolean, nullable=False),
        *_maps("metadata", "user_metadata"),
        Column("client_uuid", String(64)),
        *columns,
        UniqueConstraint("owner", "client_uuid"),
    )


schema_version = Table("medperf_registry", METADATA, Column("version", Integer, nullable=False))
users = Table(
    "users",
    METADATA,
    Column("id", _NUMBER, primary_key=True),
    *_texts(username=150, email=254, first_name=150, last_name=150),
    *_maps("metadata"),
    Column("is_admin", Boolean, nullable=False),
    UniqueConstraint("username"),
)
Index(
    "one_user_per_email",
    func.lower(users.c.email),
    unique=True,
    sqlite_where=users.c.email != "",
    postgresql_where=users.c.email != "",
)
mlcubes = _table(
    "mlcubes",
    *_texts(name=128, image_hash=100, additional_files_tarball_url=256, additional_files_tarball_hash=100, state=16),
    *_maps("container_config"),
    Column("parameters_config", _JSON),
    Column("fingerprint", String(64), nullable=False, unique=True),  # of the content that must be unique
    UniqueConstraint("name"),
)
assets = _table("assets", *_texts(name=128, asset_hash=100, asset_url=256, state=16), UniqueConstraint("name"))
models = _table(
    "models",
    *_texts(name=128, type=16, state=16),
    _refers("container", "mlcubes", required=False),
    _refers("asset", "assets", required=False),
    UniqueConstraint("name"),
    UniqueConstraint("container"),
    UniqueConstraint("asset"),
    CheckConstraint("(container is null) != (asset is null)", "wraps_one"),
)
datasets = _table(
    "datasets",
    *_texts(name=128, description=256, location=128, input_data_hash=128, generated_uid=128, state=16),
    Column("split_seed", _NUMBER, nullable=False),
    Column("submitted_as_prepared", Boolean, nullable=False),
    _refers("data_preparation_mlcube", "mlcubes"),
    *_maps("generated_metadata", "report"),
)
_operational = datasets.c.state == "OPERATION"
Index(
    "one_operational_dataset",
    datasets.c.generated_uid,
    unique=True,
    sqlite_where=_operational,
    postgresql_where=_operational,
)
benchmarks = _table(
    "benchmarks",
    *_texts(
        name=128,
        description=256,
        docs_url=100,
        demo_dataset_tarball_url=256,
        demo_dataset_tarball_hash=100,
        demo_dataset_generated_uid=128,
        state=16,
        approval_status=16,
        dataset_auto_approval_mode=16,
        model_auto_approval_mode=16,
    ),
    _refers("data_preparation_mlcube", "mlcubes"),
    _refers("data_evaluator_mlcube", "mlcubes"),
    _refers("reference_model", "models"),
    Column("is_active", Boolean, nullable=False),
    Column("approved_at", String(32)),
    *_maps("dataset_auto_approval_allow_list", "model_auto_approval_allow_list"),
    UniqueConstraint("name"),
)
_pending = benchmarks.c.approval_status == "PENDING"
Index("one_pending_benchmark", benchmarks.c.owner, unique=True, sqlite_where=_pending, postgresql_where=_pending)
results = _table(
    "results",
    *_texts(name=128, approval_status=16),
    _refers("benchmark", "benchmarks"),
    _refers("model", "models"),
    _refers("dataset", "datasets"),
    *_maps("results", "model_report", "evaluation_report"),
    Column("approved_at", String(32)),
    Column("finalized", Boolean, nullable=False),
    Column("finalized_at", String(32)),
)
associations = Table(
    "associations",
    METADATA,
    Column("id", _NUMBER, primary_key=True),
    _refers("benchmark", "benchmarks"),
    _refers("model", "models", required=False),
    _refers("dataset", "datasets", required=False),
    _refers("initiated_by", "users"),
    *_texts(approval_status=16, created_at=32, modified_at=32),
    Column("approved_at", String(32)),
    Column("priority", _NUMBER, nullable=False),
    *_maps("metadata"),
    Column("client_uuid", String(64)),
    UniqueConstraint("initiated_by", "client_uuid"),
    CheckConstraint("(model is null) != (dataset is null)", "with_one"),
)
for _party in (associations.c.model, associations.c.dataset):
    _waiting = associations.c.approval_status == "PENDING"
    Index(
        f"one_pending_{_party.name}",
        _party,
        associations.c.benchmark,
        unique=True,
        sqlite_where=_waiting,
        postgresql_where=_waiting,
    )

TABLES: dict[type[Any], Table] = {
    User: users,
    Container: mlcubes,
    Asset: assets,
    Model: models,
    Dataset: datasets,
    Benchmark: benchmarks,
    Result: results,
    Association: associations,
}
