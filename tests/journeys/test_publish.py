"""From a folder to a registered container with hosted files, in one step; here to a share of this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from medperf_core import ApproveAll, DenyAll, SiteOptions
from medperf_core.entities import Container, Model
from medperf_core.errors import DeniedError, TransferError, UsageError, VerificationError
from medperf_core.journeys.compatibility import run_test
from medperf_core.journeys.package import PARAMETERS_FILE
from medperf_core.journeys.publish import Publication, publish
from medperf_core.plugin import Notice, Progress
from medperf_core.plugin.policy import Action, PolicySubject
from medperf_core.plugin.storage import PutRequest, Storage, Stored
from medperf_core.site.site import Site

from .conftest import Tutorial

NOTHING_REGISTERED = r"All files were uploaded.*nothing was registered"
ALLOWED = SiteOptions(allow=("no-isolation",))


def share(tmp_path: Path) -> str:
    return (tmp_path / "share with blank").as_uri()


def files_in(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "share with blank").rglob("*") if path.is_file()]


def registered(done: Publication) -> Container:
    assert isinstance(done.registered, Model) and done.registered.container is not None
    return done.registered.container


def test_a_folder_becomes_a_registered_model(tutorial: Tutorial, tmp_path: Path) -> None:
    told: list[object] = []
    with tutorial.site(on_event=told.append) as site:
        done = publish(site, tutorial.model, share(tmp_path), name=tmp_path.name)
        container = registered(done)
        assert not done.public  # a share has no web address
        assert container.additional_files_tarball_url.startswith(share(tmp_path))
        sources = container.metadata["sources"]
        for each in done.files:
            assert each.url == f"{share(tmp_path)}/{each.sha256}/{each.name}"
            assert {"url": each.url, "sha256": each.sha256} in sources.values()
        assert len(files_in(tmp_path)) == len(done.files) == 4
        assert any(isinstance(event, Progress) and event.what.startswith("Uploading 4 files") for event in told)
        report = run_test(site, benchmark=1, model=str(container.uid))
        assert report.results
        places = share(tmp_path)
        sent = [entry for entry in site.audit.entries() if entry.action == "upload" and places in entry.server]
        told_of = {entry.n: entry for entry in sent if entry.event.value == "sending"}
        outcomes = [entry for entry in sent if entry.event.value == "acknowledged"]
        assert len(told_of) == len(outcomes) == 4
        assert all(told_of[entry.of or 0].target == entry.target and (entry.of or 0) < entry.n for entry in outcomes)
        assert {entry.sha256 for entry in sent} == {each.sha256 for each in done.files}


def test_again_uploads_nothing_and_registers_nothing(tutorial: Tutorial, tmp_path: Path) -> None:
    with tutorial.site() as site:
        first = publish(site, tutorial.model, share(tmp_path), name=tmp_path.name)
        count = len(site.audit.entries())
        again = publish(site, tutorial.model, share(tmp_path), name=tmp_path.name)
        assert all(each.there for each in again.files)
        assert registered(again).uid == registered(first).uid
        assert len(site.audit.entries()) == count


def test_a_dry_run_changes_nothing(shared: Tutorial, tmp_path: Path) -> None:
    shown: list[object] = []
    with shared.site(approver=DenyAll()) as site:
        before = len(site.audit.entries())
        done = publish(site, shared.model, share(tmp_path), dry_run=True, show=shown.append)
        assert done.registered is None and shown == [done.files]
        assert not (tmp_path / "share with blank").exists()
        assert len(site.audit.entries()) == before


def test_without_a_yes_nothing_leaves(shared: Tutorial, tmp_path: Path) -> None:
    with shared.site(approver=DenyAll()) as site:
        with pytest.raises(DeniedError):
            publish(site, shared.model, share(tmp_path))
        assert not (tmp_path / "share with blank").exists()
        entry = site.audit.entries()[-1]
        assert (entry.event.value, entry.approved_by) == ("denied", "nobody")


def test_a_policy_that_fails_lets_no_file_leave(
    shared: Tutorial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[PolicySubject] = []

    def fail(self: Site, action: Action, subject: PolicySubject) -> None:
        if action is Action.SEND:
            asked.append(subject)
            raise RuntimeError("no rule for this")

    monkeypatch.setattr(Site, "permit", fail)
    with shared.site() as site:
        with pytest.raises(DeniedError, match="no rule for this"):
            publish(site, shared.model, share(tmp_path))
        assert not (tmp_path / "share with blank").exists()
        [subject] = asked
        assert {each["to"].rpartition("/")[2] for each in subject.details["files"]} >= {"mlcube.yaml", PARAMETERS_FILE}
        entry = site.audit.entries()[-1]
        assert (entry.event.value, entry.approved_by) == ("denied", "policy") and "no rule" in entry.note


def test_what_is_shown_lists_every_file_with_its_hash(tutorial: Tutorial, tmp_path: Path) -> None:
    class Asked:
        bodies: tuple[bytes, ...] = ()

        def approve(self, what: str, target: str, body: bytes) -> bool:
            self.bodies += (body,)
            return True

    asked = Asked()
    with tutorial.site(approver=asked) as site:
        done = publish(site, tutorial.model, share(tmp_path), name="shown")
    assert len(asked.bodies) == 2  # the files, and the registration
    listed = json.loads(asked.bodies[0])
    assert [(each["file"], each["to"], each["size"], each["sha256"]) for each in listed] == [
        (each.name, each.target, each.size, each.sha256) for each in done.files
    ]
    local = tutorial.model / "workspace"
    assert [Path(each["from"]) for each in listed] == [
        tutorial.model / "mlcube.yaml",
        local / PARAMETERS_FILE,
        local / "additional_files",
        tutorial.model.parent / "project",
    ]


def test_something_else_under_that_name_is_neither_overwritten_nor_taken(shared: Tutorial, tmp_path: Path) -> None:
    with shared.site() as site:
        done = publish(site, shared.model, share(tmp_path), dry_run=True)
        place = tmp_path / "share with blank" / done.files[0].sha256 / done.files[0].name
        place.parent.mkdir(parents=True)
        place.write_bytes(b"?" * done.files[0].size)
        with pytest.raises(VerificationError, match="not what was uploaded"):
            publish(site, shared.model, share(tmp_path), name="elsewhere")
        place.write_bytes(b"short")
        with pytest.raises(VerificationError, match="nothing is overwritten"):
            publish(site, shared.model, share(tmp_path), name="elsewhere")
        assert place.read_bytes() == b"short"
        assert not any(each.name == "elsewhere" for each in site.server.list(Model, mine=True))


def test_a_cut_upload_goes_on_where_it_was(tutorial: Tutorial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(self: Storage, request: PutRequest, on_bytes: Callable[[int], None]) -> Stored:
        if request.url.endswith(PARAMETERS_FILE):
            raise TransferError("The connection was cut.")
        return whole(self, request, on_bytes)

    with tutorial.site() as site:
        kind = type(site.storage("file"))
        whole = kind.put
        monkeypatch.setattr(kind, "put", cut)
        with pytest.raises(TransferError, match="was cut"):
            publish(site, tutorial.model, share(tmp_path), name="cut")
        arrived = {path.name for path in files_in(tmp_path)}
        assert PARAMETERS_FILE not in arrived
        monkeypatch.setattr(kind, "put", whole)
        done = publish(site, tutorial.model, share(tmp_path), name="cut")
        assert {each.name for each in done.files if each.there} == arrived
        failed = [entry for entry in site.audit.entries() if entry.event.value == "failed" and entry.action == "upload"]
        [note] = [entry.note for entry in failed if entry.target.endswith(PARAMETERS_FILE)]
        assert "was cut" in note
        assert site.audit.verify().count == len(site.audit.entries())


@contextmanager
def open_to_everybody(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str = "", other: str = "", status: int = 403
) -> Iterator[str]:
    """The share has a web address too, which answers ``status`` for the files called ``closed`` and changes those
    called ``other``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            content = (tmp_path / "share with blank" / unquote(self.path).lstrip("/")).read_bytes()
            self.send_response(status if name == closed else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[::-1] if name == other else content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(
            type(site.storage("file")), "public_url", lambda _, url: url.replace(share(tmp_path), address)
        )
        yield address
        server.shutdown()


def test_what_everybody_may_read_is_registered_by_its_web_address(
    tutorial: Tutorial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tutorial.site() as site, open_to_everybody(site, tmp_path, monkeypatch) as address:
        done = publish(site, tutorial.model, share(tmp_path), name="public")
        assert done.public
        assert {each.url for each in done.files} == {f"{address}/{each.sha256}/{each.name}" for each in done.files}
        assert registered(done).additional_files_tarball_url.startswith(address)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_one_file_that_a_stranger_may_not_read_makes_it_private(
    status: int, tutorial: Tutorial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    with (
        tutorial.site(on_event=told.append) as site,
        open_to_everybody(site, tmp_path, monkeypatch, closed="parameters.yaml", status=status),
    ):
        done = publish(site, tutorial.model, share(tmp_path), name="private")
        assert not done.public
        assert {each.url for each in done.files} == {each.target for each in done.files}
        assert registered(done).additional_files_tarball_url.startswith(share(tmp_path))
    [warning] = [each for each in told if isinstance(each, Notice) and each.level == "warning"]
    assert (
        "Not everybody may read" in warning.message
        and f"parameters.yaml could not be fetched: the server answered {status}" in warning.message
    )


@pytest.mark.parametrize("status", [503, 500, 429, 400, 302, 0])
def test_a_fault_while_reading_back_registers_nothing_and_the_same_command_goes_on(
    status: int, tutorial: Tutorial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    options = SiteOptions(settings={"http": {"attempts": 1, "pause": 0.0}})
    with tutorial.site(on_event=told.append, options=options) as site:
        if status:
            fault = open_to_everybody(site, tmp_path, monkeypatch, closed="parameters.yaml", status=status)
            with fault, pytest.raises(TransferError, match=NOTHING_REGISTERED) as caught:
                publish(site, tutorial.model, share(tmp_path), name="passing")
        else:  # nobody listens
            monkeypatch.setattr(type(site.storage("file")), "public_url", lambda _, url: "http://127.0.0.1:9/x")
            with pytest.raises(TransferError, match=NOTHING_REGISTERED) as caught:
                publish(site, tutorial.model, share(tmp_path), name="passing")
        assert "The same command goes on" in (caught.value.hint or "")
        assert not [each for each in told if isinstance(each, Notice) and each.level == "warning"]
        assert not any(each.name == "passing" for each in site.server.list(Model, mine=True))
        assert len(files_in(tmp_path)) == 4
        with open_to_everybody(site, tmp_path, monkeypatch):
            done = publish(site, tutorial.model, share(tmp_path), name="passing")
        assert done.public and all(each.there for each in done.files)


def test_what_strangers_would_get_instead_is_not_registered(
    tutorial: Tutorial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tutorial.site() as site, open_to_everybody(site, tmp_path, monkeypatch, other="parameters.yaml"):
        with pytest.raises(VerificationError, match=r"parameters\.yaml is not what was uploaded"):
            publish(site, tutorial.model, share(tmp_path), name="other")
        assert not any(each.name == "other" for each in site.server.list(Model, mine=True))


def test_the_author_s_files_stay_as_they_are(tutorial: Tutorial, tmp_path: Path) -> None:
    def looks() -> dict[Path, tuple[int, int, int, int]]:
        found = {path: path.stat() for path in tutorial.model.parent.rglob("*") if path.is_file()}
        return {path: (each.st_ino, each.st_nlink, each.st_mode, each.st_mtime_ns) for path, each in found.items()}

    before = looks()
    with tutorial.site() as site:
        done = publish(site, tutorial.model, share(tmp_path), name="kept")
        for each in done.files:
            kept = site.cache.file(each.sha256)
            assert kept is not None and kept.stat().st_ino not in {inode for inode, *_ in before.values()}
            assert kept.stat().st_nlink == 1
    assert looks() == before


@pytest.mark.parametrize("to", ["somewhere", "://x", ""])
def test_what_is_no_store(shared: Tutorial, to: str) -> None:
    with shared.site(approver=ApproveAll("test")) as site, pytest.raises(UsageError, match="gs://"):
        publish(site, shared.model, to)


def test_a_store_without_uploads_says_so(shared: Tutorial) -> None:
    with shared.site() as site, pytest.raises(TransferError, match="Nothing can be uploaded"):
        publish(site, shared.model, "http://127.0.0.1:1/x")


def test_a_share_is_no_place_for_a_server_elsewhere(
    shared: Tutorial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shared.site(approver=DenyAll()) as site:
        monkeypatch.setattr(site.server, "trusted_addresses", False)
        with pytest.raises(UsageError, match="which nobody else can fetch from"):
            publish(site, shared.model, share(tmp_path))
    assert not (tmp_path / "share with blank").exists()


def test_an_address_that_no_server_would_keep_is_refused_first(shared: Tutorial, tmp_path: Path) -> None:
    with shared.site(approver=DenyAll()) as site, pytest.raises(UsageError, match="at most 256 characters"):
        publish(site, shared.model, f"{share(tmp_path)}/{'x' * 180}")
    assert not (tmp_path / "share with blank").exists()
