"""The store on SQLite and PostgreSQL: what goes in comes out, stamped, listed, filtered, and sent again safely."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import attrs
import pytest
import sqlalchemy
from medperf_server import store as store_module
from medperf_server.rules import RefusedError
from medperf_server.store import Store

from medperf_core.entities import Approval, Association, Benchmark, Container, Dataset, Model, Result, State, User
from medperf_core.errors import (
    AuthenticationError,
    ConfigurationError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    UsageError,
)
from medperf_core.plugin import Party

OPERATION = State.OPERATION


@pytest.fixture
def filled(store, people, make):
    """Containers 1-4, models 1-2, dataset 1, the approved benchmark 1, both associated, as the rules let them be."""
    for name in ("prep", "metrics"):
        store.create(people["bo"], make.container(name, state=OPERATION))
    store.create(people["bo"], make.model("reference", state=OPERATION))
    store.create(people["mo"], make.model("unet", state=OPERATION))
    store.create(people["do"], make.dataset("hospital", report={"steps": 3}))
    store.update(people["do"], Dataset, 1, {"state": "OPERATION"})
    store.create(people["bo"], make.benchmark("lungs", state=OPERATION, model_auto_approval_allow_list=["a@b"]))
    store.update(people["admin"], Benchmark, 1, {"approval_status": "APPROVED"})
    for owner, party, uid in (("mo", Party.MODEL, 2), ("do", Party.DATASET, 1)):
        store.create(people[owner], Association(benchmark=1, **{party.value: uid}))
        store.update_association(people["bo"], party, uid, 1, {"approval_status": "APPROVED"})
    return store


def test_a_new_registry_has_one_administrator(store):
    assert store.people() == [User(id=1, username="admin", is_admin=True)]


def test_an_opened_registry_keeps_what_it_had(store, people, database, make):
    made = store.create(people["bo"], make.container("a", parameters_config={"é\0": [1, 2.5, None, True]}))
    again = Store(database)
    assert again.get(people["mo"], Container, made.uid) == made
    assert len(again.people()) == 4
    again.close()


def test_stamps_are_utc_with_microseconds(database, make):
    cet = timezone(timedelta(hours=1))
    opened = Store(database, clock=lambda: datetime(2026, 1, 2, 1, 0, 0, 0, tzinfo=cet))
    made = opened.create(opened.people()[0], make.container("a"))
    assert made.created_at == made.modified_at == "2026-01-02T00:00:00.000000Z"
    opened.close()
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z",
        store_module.utc_now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    )


def test_a_model_and_its_container_are_written_together(filled, people):
    model = filled.get(people["do"], Model, 2)
    assert model.container == filled.get(people["do"], Container, 4)
    assert filled.model_of(people["do"], 4) == model
    for uid in (1, 99):
        with pytest.raises(NotFoundError):
            filled.model_of(people["do"], uid)
    filled.update(people["mo"], Model, 2, {"is_valid": False})
    assert not filled.get(people["do"], Container, 4).is_valid


def test_a_refused_model_leaves_no_container(store, people, make):
    store.create(people["mo"], make.model("m"))
    with pytest.raises(RefusedError):
        store.create(people["mo"], attrs.evolve(make.model("other"), name="m"))
    assert [each.name for each in store.list(people["mo"], Container)] == ["m"]


def test_b11_lists_are_in_order_and_filtered(filled, people):
    mo = people["mo"]
    assert [each.uid for each in filled.list(mo, Container)] == [1, 2, 3, 4]
    assert [each.uid for each in filled.list(mo, Container, mine=True)] == [4]
    assert [each.uid for each in filled.list(mo, Container, owner=2, state=State.OPERATION, name="prep")] == [1]
    assert [each.uid for each in filled.list(mo, Container, mine=True, owner=2)] == []
    assert [each.uid for each in filled.list(mo, Model, container=4)] == [2]
    assert [each.uid for each in filled.list(mo, Benchmark, approval_status=Approval.APPROVED, is_active=True)] == [1]
    for wrong in ({"metadata": {}}, {"fingerprint": "x"}, {"owner": "2"}, {"owner": True}, {"is_valid": 1}):
        with pytest.raises(UsageError):
            filled.list(mo, Container, **wrong)
    with pytest.raises(UsageError, match="no list of User"):
        filled.list(mo, User)


def test_long_lists_come_in_pages(store, people, make, monkeypatch):
    monkeypatch.setattr(store_module, "_PAGE", 2)
    for number in range(5):
        store.create(people["mo"], make.model(f"m{number}", image_hash=f"sha256:{number}"))
    names = [f"m{number}" for number in range(5)]
    assert [each.name for each in store.list(people["do"], Model)] == names
    assert [each.container.name for each in store.list(people["do"], Model)] == names


def test_what_others_may_not_see_is_left_out(filled, people, result):
    seen = {
        name: (
            next(iter(filled.list(user, Benchmark))).model_auto_approval_allow_list,
            filled.get(user, Dataset, 1).report,
        )
        for name, user in people.items()
    }
    assert seen == {"admin": ([], {}), "bo": (["a@b"], {"steps": 3}), "mo": ([], {}), "do": ([], {"steps": 3})}
    filled.create(people["do"], result())
    assert [len(list(filled.list(people[name], Result))) for name in ("admin", "bo", "mo", "do")] == [1, 1, 0, 1]
    with pytest.raises(PermissionDeniedError):
        filled.get(people["mo"], Result, 1)
    assert [user.username for user in filled.users(people["mo"])] == ["mo"]
    with pytest.raises(PermissionDeniedError):
        filled.get(people["mo"], User, 1)


def test_associations_are_the_latest_of_each_pair_of_ones_own(filled, people):
    both = [
        (each.model, each.dataset, each.approval_status)
        for party in Party
        for each in filled.associations(people["bo"], party, benchmark=1)
    ]
    assert both == [(2, None, "APPROVED"), (None, 1, "APPROVED")]
    filled.create(people["mo"], Association(benchmark=1, model=2, approval_status=Approval.REJECTED))
    filled.create(people["bo"], Association(benchmark=1, model=1))
    assert [(each.model, each.approval_status) for each in filled.associations(people["bo"], Party.MODEL)] == [
        (2, "REJECTED"),
        (1, "APPROVED"),
    ]
    assert [each.model for each in filled.associations(people["mo"], Party.MODEL)] == [2]
    assert filled.associations(people["do"], Party.MODEL) == []
    assert filled.associations(people["bo"], Party.MODEL, benchmark=2) == []
    assert [each.model for each in filled.associations(people["admin"], Party.MODEL)] == [2, 1]
    assert [each.dataset for each in filled.associations(people["admin"], Party.DATASET, benchmark=1)] == [1]
    assert [each.model for each in filled.participants(people["do"], Party.MODEL, 1)] == [2, 1]
    with pytest.raises(PermissionDeniedError):
        filled.participants(people["mo"], Party.DATASET, 1)


@pytest.mark.parametrize("kind", ["container", "model", "dataset", "benchmark", "result", "association"])
def test_what_comes_again_is_not_made_again(filled, people, make, result, kind):
    filled.create(people["bo"], Association(benchmark=1, model=1))
    owner, draft = {
        "container": ("mo", make.container("new", image_hash="sha256:new")),
        "model": ("mo", make.model("new", image_hash="sha256:new")),
        "dataset": ("do", make.dataset("new")),
        "benchmark": ("mo", make.benchmark("new")),
        "result": ("do", result()),
        "association": ("mo", Association(benchmark=1, model=2, approval_status=Approval.REJECTED)),
    }[kind]
    draft = attrs.evolve(draft, metadata={"client_uuid": "6f8d", "audit": 1})
    first = filled.create(people[owner], draft)
    again = filled.create(people[owner], attrs.evolve(draft, metadata={"client_uuid": "6f8d", "audit": 2}))
    assert again == first and again.metadata["audit"] == 1


def test_a_client_uuid_is_of_one_owner_kind_and_thing(store, people, make):
    used = {"client_uuid": "6f8d"}
    store.create(people["mo"], make.container("a", metadata=used))
    with pytest.raises(RefusedError, match=r"client_uuid is that of container 1 \('a'\) already"):
        store.create(people["mo"], make.container("b", metadata=used))
    with pytest.raises(RefusedError, match="name 'a' already"):
        store.create(people["bo"], make.container("a", metadata=used))
    assert store.create(people["mo"], make.model("m", metadata=used, container_config={})).uid == 1
    store.update(people["mo"], Container, 1, {"metadata": {}})
    assert store.create(people["mo"], make.container("a", metadata=used)).uid == 1  # known though it was edited away
    for wrong in (5, "", "x" * 65, "a\nb", ["x"]):
        with pytest.raises(RefusedError, match="client_uuid must be"):
            store.create(people["mo"], make.container("c", metadata={"client_uuid": wrong}))


def test_rights_are_looked_up_at_each_call(store, people, make):
    with pytest.raises(PermissionDeniedError):
        store.create(attrs.evolve(people["bo"], is_admin=True), User(username="friend"))
    for stranger in (User(username="x"), User(id=9, username="admin"), attrs.evolve(people["bo"], username="mo")):
        with pytest.raises(AuthenticationError):
            store.create(stranger, make.container("a"))


def test_the_tables_hold_what_the_rules_hold(filled, database):
    """The second net: writes that went round the rules."""
    engine = sqlalchemy.create_engine(database)
    for statement in (
        "update mlcubes set name = 'prep'",
        "update mlcubes set fingerprint = 'same'",
        "update models set name = 'x'",
        "update benchmarks set reference_model = 99",
        "update models set container = null",
        "insert into associations (benchmark, model, initiated_by, approval_status, created_at, modified_at, priority,"
        " metadata) select benchmark, model, initiated_by, 'PENDING', created_at, modified_at, priority, metadata"
        " from associations, (select 1 union all select 2) twice where model = 2",
        "insert into datasets (name, description, location, input_data_hash, generated_uid, state, split_seed,"
        " submitted_as_prepared, data_preparation_mlcube, generated_metadata, report, owner, created_at, modified_at,"
        " is_valid, metadata, user_metadata) select name, description, location, input_data_hash, generated_uid,"
        " state, split_seed, submitted_as_prepared, data_preparation_mlcube, generated_metadata, report, owner,"
        " created_at, modified_at, is_valid, metadata, user_metadata from datasets",
    ):
        with engine.connect() as connection, pytest.raises(sqlalchemy.exc.IntegrityError):
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_newer_registry_is_refused_with_words(store, database):
    engine = sqlalchemy.create_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql("update medperf_registry set version = 2")
    engine.dispose()
    with pytest.raises(ServerError, match=r"has the schema version 2; this program knows 1\. Update medperf-server"):
        Store(database)


def test_a_database_of_something_else_is_left_alone(database):
    engine = sqlalchemy.create_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table invoices (id integer)")
    with pytest.raises(ServerError, match="database of something else: it holds the table 'invoices'"):
        Store(database)
    assert sqlalchemy.inspect(engine).get_table_names() == ["invoices"]
    engine.dispose()


def test_a_record_that_cannot_be_read_is_named(store, people, database, make):
    store.create(people["mo"], make.container("a"))
    engine = sqlalchemy.create_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql("update mlcubes set state = 'BROKEN'")
    engine.dispose()
    with pytest.raises(ServerError, match="record of a container cannot be read"):
        store.get(people["mo"], Container, 1)


def test_a_writer_does_not_wait_for_ever(database, make):
    first, second = Store(database), Store(database, wait=0.2)
    admin = first.people()[0]
    with first._transaction(write=True), pytest.raises(ServerError, match=r"cannot be used: .*lock"):
        second.create(admin, make.container("a"))
    second.create(admin, make.container("a"))
    first.close()
    second.close()


def test_unreachable_and_unknown_databases_are_refused_without_the_password():
    with pytest.raises(ServerError) as caught:
        Store("postgresql+psycopg://me:secret@127.0.0.1:1/none")
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="cannot be kept in mysql"):
        Store("mysql://localhost/x")
