"""A small world of entities, in memory for the rules and in real databases for the store."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
import sqlalchemy
from medperf_server import rules
from medperf_server.store import Store

from medperf_core.entities import (
    Approval,
    Asset,
    Association,
    Benchmark,
    Container,
    Dataset,
    Model,
    ModelType,
    Result,
    State,
    User,
)
from medperf_core.plugin import Party
from tests.engines import require

T = TypeVar("T")
NOW = "2026-01-02T03:04:05.000006Z"
HASH = "0123456789abcdef" * 4
OPERATION = State.OPERATION


class Memory:
    """Entities in memory, and the rules applied to them."""

    def __init__(self) -> None:
        self.kept: dict[type[Any], list[Any]] = {}
        for name in ("admin", "bo", "mo", "do"):
            user = User(username=name, email=f"{name}@example.org", is_admin=name == "admin")
            setattr(self, name, self.put(user))

    def put(self, thing: Any, **changes: Any) -> Any:
        """Keep a thing as it is, whatever the rules say; a new one gets its UID."""
        thing = attrs.evolve(thing, **changes)
        rows = self.kept.setdefault(type(thing), [])
        for field in ("container", "asset") if isinstance(thing, Model) else ():
            if inner := getattr(thing, field):
                thing = attrs.evolve(thing, **{field: self.put(inner)})
        if thing.id is not None:
            rows[thing.id - 1] = thing
            return thing
        rows.append(attrs.evolve(thing, id=len(rows) + 1))
        return rows[-1]

    def create(self, actor: User, draft: T) -> T:
        return self.put(rules.create(actor, draft, self, NOW))

    def update(self, actor: User, thing: T, **changes: Any) -> T:
        return self.put(rules.update(actor, type(thing), thing.id, changes, self, NOW))

    def answer(self, actor: User, party: str, uid: int, benchmark: int = 1, **changes: Any) -> Association:
        return self.put(rules.update_association(actor, Party(party), uid, benchmark, changes, self, NOW))

    def get(self, kind: type[T], uid: int) -> T | None:
        return next((each for each in self.kept.get(kind, ()) if each.id == uid), None)

    def find(self, kind: type[T], **fields: Any) -> Sequence[T]:
        def value(each: Any, name: str) -> Any:
            inner = getattr(each, name)
            return inner.id if isinstance(inner, (Container, Asset)) else inner

        return [each for each in self.kept.get(kind, ()) if all(value(each, k) == v for k, v in fields.items())]

    def latest(self, party: Party, uid: int, benchmark: int) -> Association | None:
        return next(reversed(self.find(Association, benchmark=benchmark, **{party.value: uid})), None)


def container(name: str, **fields: Any) -> Container:
    return Container(**{"name": name, "container_config": {"name": name}, "image_hash": f"sha256:{HASH}", **fields})


def model(name: str, **fields: Any) -> Model:
    return Model.wrapping(container(name, **fields))


def asset_model(name: str) -> Model:
    return Model(name=name, type=ModelType.ASSET, asset=Asset(name=name, asset_hash=HASH, asset_url="local"))


def dataset(name: str, **fields: Any) -> Dataset:
    return Dataset(
        **{"name": name, "input_data_hash": HASH, "generated_uid": name, "data_preparation_mlcube": 1, **fields}
    )


def benchmark(name: str, **fields: Any) -> Benchmark:
    return Benchmark(
        **{
            "name": name,
            "demo_dataset_tarball_url": "https://example.org/demo.tar.gz",
            "demo_dataset_tarball_hash": HASH,
            "demo_dataset_generated_uid": HASH,
            "data_preparation_mlcube": 1,
            "data_evaluator_mlcube": 2,
            "reference_model": 1,
            **fields,
        }
    )


class Make:
    """The makers of drafts, for tests: conftest modules cannot be imported by them."""

    container, model, asset_model = staticmethod(container), staticmethod(model), staticmethod(asset_model)
    dataset, benchmark = staticmethod(dataset), staticmethod(benchmark)
    NOW, HASH = NOW, HASH


@pytest.fixture
def make() -> type[Make]:
    return Make


@pytest.fixture
def empty() -> Memory:
    """Users only: admin 1, bo 2 (benchmark owner), mo 3 (model owner), do 4 (data owner)."""
    return Memory()


@pytest.fixture
def world() -> Memory:
    """Operational: containers 1 and 2 and model 1 (container 3) and the approved benchmark 1 of bo; model 2
    (container 4) of mo; dataset 1 of do."""
    memory = Memory()
    for name in ("prep", "metrics"):
        memory.put(container(name), owner=2, state=OPERATION)
    memory.put(model("reference", owner=2, state=OPERATION), owner=2)
    memory.put(model("unet", owner=3, state=OPERATION), owner=3)
    memory.put(dataset("hospital"), owner=4, state=OPERATION)
    memory.put(benchmark("lungs"), owner=2, state=OPERATION, approval_status=Approval.APPROVED)
    return memory


@pytest.fixture
def associated(world: Memory) -> Memory:
    """The world with model 2 and dataset 1 approved for benchmark 1."""
    for who, party in ((3, "model"), (4, "dataset")):
        world.put(
            Association(benchmark=1, **{party: {"model": 2, "dataset": 1}[party]}),
            approval_status=Approval.APPROVED,
            initiated_by=who,
        )
    return world


@pytest.fixture
def result() -> Callable[..., Result]:
    return lambda **fields: Result(**{"name": "b1m2d1", "benchmark": 1, "model": 2, "dataset": 1, **fields})


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'registry.db'}"
        return
    server = sqlalchemy.create_engine(
        require("postgres")["MEDPERF_TEST_POSTGRES"], isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool
    )
    name = f"registry_{uuid.uuid4().hex}"
    with server.connect() as connection:
        connection.exec_driver_sql(f"create database {name}")
    yield server.url.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"drop database {name} with (force)")


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    opened = Store(database)
    yield opened
    opened.close()


@pytest.fixture
def people(store: Store) -> dict[str, User]:
    """The users of the store by name: admin, bo, mo, do."""
    admin = store.people()[0]
    for name in ("bo", "mo", "do"):
        store.create(admin, User(username=name, email=f"{name}@example.org"))
    return {user.username: user for user in store.people()}
