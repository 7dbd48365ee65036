"""The embedded client: the file, logins, drafts word for word, and the whole way to an approved association."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import attrs
import pytest
from medperf_server.embedded import EmbeddedClient
from medperf_server.plugin import medperf_servers
from medperf_server.view import View

from medperf_core.entities import (
    Approval,
    Association,
    Benchmark,
    Container,
    Dataset,
    ImageSource,
    Model,
    Result,
    State,
    User,
)
from medperf_core.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidEntityError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    UsageError,
)
from medperf_core.plugin import BackendContext, Party, Submission

OPERATION = State.OPERATION


def never(question: str, secret: bool, answers: tuple[str, ...]) -> str:
    raise AssertionError(f"asked {question!r}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
def client(path: Path, tmp_path: Path) -> Callable[[str | None], EmbeddedClient]:
    """The client as the site of a user would make it."""

    def make(username: str | None) -> EmbeddedClient:
        address = f"embedded:{path}"
        (plugin,) = medperf_servers()
        context = BackendContext(
            cache_dir=tmp_path,
            temp_dir=tmp_path,
            credentials=lambda name: {"username": username} if username and name == address else None,
        )
        made = plugin.make(address, plugin.settings(), context)
        assert isinstance(made, EmbeddedClient) and made.address == address and made.trusted_addresses
        return made

    return make


@pytest.fixture
def seeded(client):
    """The client, with the users bo, mo and do added."""
    for name in ("bo", "mo", "do"):
        client("admin").add_user(User(username=name, email=f"{name}@example.org"))
    return client


def test_the_plugin_is_found_by_its_entry_point():
    (found,) = entry_points(group="medperf", name="server")
    assert [plugin.schemes for plugin in found.load().medperf_servers()] == [("embedded",)]


def test_start_up_imports_no_sqlalchemy():
    code = "import sys, medperf_server.plugin, medperf_server.embedded; sys.exit('sqlalchemy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_file_is_made_by_a_login_and_is_private(client, path):
    made = client("admin")
    assert not path.exists()
    assert made.login("admin", never).user == made.me() == User(id=1, username="admin", is_admin=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "use",
    [
        lambda client: client.me(),
        lambda client: client.users(),
        lambda client: list(client.list(Model)),
        lambda client: client.associations(Party.MODEL),
        lambda client: client.send(Submission(action="", target="", route="POST /models/", body=b"{}")),
    ],
)
def test_nothing_else_makes_a_file_that_is_missing(client, path, use):
    with pytest.raises(ConfigurationError, match=f"There is no registry at {path}.*medperf auth login"):
        use(client("admin"))
    assert not path.exists()


def test_a_link_to_nothing_is_no_registry(client, path):
    path.symlink_to(path.with_name("gone.db"))
    with pytest.raises(ConfigurationError, match="There is no registry"):
        client("admin").login("admin", never)
    assert not path.exists()


def test_each_call_reads_the_user_once(seeded, monkeypatch):
    read = []
    load = View._load
    monkeypatch.setattr(View, "_load", lambda self, kind, rows: read.append(kind) or load(self, kind, rows))
    bo = seeded("bo")
    for use in (bo.me, lambda: list(bo.list(Model, mine=True)), lambda: bo.associations(Party.MODEL)):
        read.clear()
        use()
        assert read.count(User) == 1


def test_permissions_that_were_given_stay(client, path):
    client("admin").login("admin", never)
    path.chmod(0o640)
    client("admin").me()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("address", ["embedded:registry.db", "embedded:", "embedded:./x", "other:/x"])
def test_other_addresses_are_refused(address, tmp_path):
    with pytest.raises(ConfigurationError, match="does not name a registry file"):
        EmbeddedClient(address, BackendContext(cache_dir=tmp_path, temp_dir=tmp_path))


def test_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = EmbeddedClient("embedded:~/registry.db", BackendContext(cache_dir=tmp_path, temp_dir=tmp_path))
    assert made.path == tmp_path / "registry.db"


def test_files_that_are_no_registry_are_refused_with_words_and_left_alone(client, path):
    path.write_bytes(b"not a database, but long enough to look like one" * 100)
    with pytest.raises(ServerError, match=r"registry.db cannot be used: file is not a database"):
        client("admin").me()
    assert path.read_bytes().startswith(b"not a database")
    path.unlink()
    client("admin").login("admin", never)
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(ServerError, match="cannot be used"):
        client("admin").me()
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigurationError, match="is not a file"):
        client("admin").me()


def test_a_newer_file_is_refused_with_words(client, path):
    client("admin").login("admin", never)
    with sqlite3.connect(path) as connection:
        connection.execute("update medperf_registry set version = 7")
    with pytest.raises(ServerError, match="schema version 7"):
        client("admin").me()


def test_a_folder_that_does_not_exist_is_not_made(tmp_path):
    made = EmbeddedClient(f"embedded:{tmp_path}/no/registry.db", BackendContext(cache_dir=tmp_path, temp_dir=tmp_path))
    with pytest.raises(ConfigurationError, match="folder does not exist"):
        made.login("admin", never)
    assert not (tmp_path / "no").exists()


def test_logins(seeded):
    nobody = seeded(None)
    for name in ("bo", "bo@example.org", "BO@Example.org"):
        login = nobody.login(name, never)
        assert (login.user.username, login.credentials, login.expires) == ("bo", {"username": "bo"}, None)
    asked = []
    assert nobody.login(None, lambda *question: asked.append(question) or "mo").user.username == "mo"
    assert asked == [("Who are you?", False, ("admin", "bo", "mo", "do"))]
    for unknown in ("eve", ""):
        with pytest.raises(AuthenticationError, match="It knows: admin, bo, mo, do"):
            nobody.login(unknown, never)
    nobody.logout()
    for name in (None, "eve"):
        with pytest.raises(AuthenticationError):
            seeded(name).me()


def test_the_readme_runs(path):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0].replace("/srv/medperf/registry.db", str(path))
    exec(compile(code, "README.md", "exec"), {})
    assert path.exists()


def test_only_administrators_add_users(seeded):
    with pytest.raises(PermissionDeniedError):
        seeded("bo").add_user(User(username="friend", is_admin=True))
    assert seeded("admin").add_user(User(username="second", is_admin=True)).is_admin


def test_the_way_to_an_approved_association_and_its_results(seeded, make):
    admin, bo, mo, do = map(seeded, ("admin", "bo", "mo", "do"))
    prep, metrics, reference = (
        bo.send(bo.draft_create(thing))
        for thing in (
            make.container("prep", state=OPERATION),
            make.container("metrics", state=OPERATION),
            make.model("reference", state=OPERATION),
        )
    )
    assert (prep.id, metrics.id, reference.id, reference.container.id) == (1, 2, 1, 3)
    bench = bo.send(bo.draft_create(make.benchmark("lungs", state=OPERATION)))
    with pytest.raises(PermissionDeniedError):
        bo.send(bo.draft_update(Benchmark, bench.uid, {"approval_status": "APPROVED"}))
    admin.send(admin.draft_update(Benchmark, bench.uid, {"approval_status": Approval.APPROVED}))

    unet = mo.send(mo.draft_create(make.model("unet", state=OPERATION)))
    assert (unet.container.id, unet.owner, mo.model_of(4)) == (4, mo.me().id, unet)
    request = mo.draft_create(Association(benchmark=1, model=unet.uid, metadata={"test_result": {"auc": 0.8}}))
    assert mo.send(request).approval_status is Approval.PENDING
    with pytest.raises(ServerError, match="who asked cannot approve"):
        mo.send(mo.draft_answer(Party.MODEL, unet.uid, 1, Approval.APPROVED))
    assert bo.send(bo.draft_answer(Party.MODEL, unet.uid, 1, Approval.APPROVED)).approved_at
    assert [each.metadata for each in mo.associations(Party.MODEL)] == [{"test_result": {"auc": 0.8}}]

    data = do.send(do.draft_create(make.dataset("hospital")))
    do.send(do.draft_update(Dataset, data.uid, {"state": "OPERATION", "generated_metadata": {"n": 9}}))
    bo.send(bo.draft_create(Association(benchmark=1, dataset=data.uid)))
    do.send(do.draft_answer(Party.DATASET, data.uid, 1, Approval.APPROVED))
    assert [each.model for each in do.participants(Party.MODEL, 1)] == [unet.uid]
    run = do.send(do.draft_create(Result(benchmark=1, model=unet.uid, dataset=data.uid)))
    assert do.send(do.draft_update(Result, run.uid, {"results": {"auc": 0.7}})).finalized
    assert bo.get(Result, run.uid).results == {"auc": 0.7}

    withdrawal = do.draft_create(Association(benchmark=1, dataset=data.uid, approval_status=Approval.REJECTED))
    assert withdrawal.action == "withdraw association" and do.send(withdrawal).approval_status is Approval.REJECTED
    assert [each.name for each in do.list(Model, mine=False, owner=mo.me().id)] == ["unet"]
    with pytest.raises(NotFoundError):
        do.get(Container, 99)


def test_drafts_say_exactly_what_is_sent(seeded, make):
    mo = seeded("mo")
    draft = mo.draft_create(attrs.evolve(make.model("m", metadata={"client_uuid": "u"}), id=5, owner=9))
    assert (draft.action, draft.target, draft.route) == ("create model", "model m", "POST /models/")
    common = {
        "name": "m",
        "state": "DEVELOPMENT",
        "is_valid": True,
        "metadata": {"client_uuid": "u"},
        "user_metadata": {},
    }
    assert json.loads(draft.body) == {
        **common,
        "type": "CONTAINER",
        "container": {
            **common,
            "container_config": {"name": "m"},
            "parameters_config": None,
            "image_hash": f"sha256:{make.HASH}",
            "additional_files_tarball_url": "",
            "additional_files_tarball_hash": "",
        },
    }
    draft = mo.draft_create(Association(benchmark=1, model=4, id=3, initiated_by=7, priority=2, metadata={"a": "é"}))
    assert (draft.action, draft.target) == ("create association", "association of model 4 with benchmark 1")
    assert draft.route == "POST /models/benchmarks/"
    assert draft.body.decode() == '{"approval_status":"PENDING","benchmark":1,"metadata":{"a":"é"},"model":4}'
    draft = mo.draft_answer(Party.DATASET, 4, 1, Approval.REJECTED)
    assert (draft.route, draft.body) == ("PUT /datasets/4/benchmarks/1/", b'{"approval_status":"REJECTED"}')
    draft = mo.draft_update(Container, 4, {"state": State.OPERATION})
    assert (draft.action, draft.target, draft.route, draft.body) == (
        "update container",
        "container 4",
        "PUT /mlcubes/4/",
        b'{"state":"OPERATION"}',
    )
    assert mo.draft_create(make.container("c")).route == "POST /mlcubes/"
    assert mo.draft_create(make.asset_model("a")).body.count(b'"asset":{') == 1


def test_drafts_that_cannot_be_said_are_refused_before_anything_is_sent(seeded, make):
    mo = seeded("mo")
    with pytest.raises(UsageError, match="The owner, shape of a container cannot be changed"):
        mo.draft_update(Container, 1, {"owner": 2, "shape": 1})
    with pytest.raises(InvalidEntityError, match="cannot be registered in OPERATION"):
        mo.draft_create(make.dataset("d", state=OPERATION))
    with pytest.raises(InvalidEntityError, match="cannot be sent"):
        mo.draft_update(Container, 1, {"metadata": {"a": float("nan")}})
    with pytest.raises(UsageError):
        mo.draft_answer(Party.MODEL, 1, 1, Approval.PENDING)
    with pytest.raises(UsageError, match="does not keep ImageSource"):
        mo.draft_create(ImageSource("registry", "x"))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"name": NaN}',
        b"\xff\xfe",
        b'{"name": "\\ud800"}',
        b"[" * 100_000,
        b"1" * 5000,
        b"null",
        b'{"name": 5, "container_config": {}, "image_hash": "x"}',
        b'{"name": "x", "container_config": [], "image_hash": 1}',
        b'{"name": "x", "container_config": {}, "image_hash": "a\\u0000"}',
        b'{"name": "x"}',
        b'{"name": "x", "image_hash": "x", "container_config": ' + b'{"a":' * 60 + b"1" + b"}" * 60 + b"}",
    ],
)
def test_hostile_bodies_are_refused_with_words(seeded, body):
    with pytest.raises(ServerError, match="The registry refuses"):
        seeded("mo").send(Submission(action="", target="", route="POST /mlcubes/", body=body))
    assert list(seeded("mo").list(Container)) == []


@pytest.mark.parametrize(
    "body",
    [
        {"container": {"name": "m"}},
        {"container": 1},
        {"container": [], "type": "ASSET"},
        {"data_preparation_mlcube": 2**70},
        {"split_seed": 2**70, "data_preparation_mlcube": 1},
    ],
)
def test_hostile_values_are_refused_with_words(seeded, body, make):
    mo = seeded("mo")
    path, draft = ("models", make.model("m")) if "container" in body else ("datasets", make.dataset("d"))
    body = {**json.loads(mo.draft_create(draft).body), **body}
    with pytest.raises(ServerError, match="The registry refuses"):
        mo.send(Submission(action="", target="", route=f"POST /{path}/", body=json.dumps(body).encode()))


@pytest.mark.parametrize(
    "route",
    [
        "",
        "GET /models/",
        "POST /nothing/",
        "PUT /models/",
        "PUT /models/x/",
        "POST /models/../",
        "POST /users/",
        "DELETE /models/1/",
    ],
)
def test_other_routes_are_refused(seeded, route):
    with pytest.raises((UsageError, ServerError)):
        seeded("mo").send(Submission(action="", target="", route=route, body=b'{"username": "x"}'))


def test_what_the_wire_carries_beside_the_draft_is_passed_over(seeded, make):
    mo = seeded("mo")
    body = json.loads(mo.draft_create(make.model("m")).body)
    body |= {
        "id": None,
        "owner": 1,
        "created_at": "x",
        "for_test": False,
        "asset": None,
        "user_metadata": None,
        "name": " m\n",
    }
    body["container"] |= {"id": 77, "owner": 1, "for_test": True}
    made = mo.send(Submission(action="", target="", route="POST /models/", body=json.dumps(body).encode()))
    assert (made.uid, made.owner, made.container.uid, made.container.owner) == (1, 3, 1, 3)
    assert (made.user_metadata, made.name) == ({}, "m")
