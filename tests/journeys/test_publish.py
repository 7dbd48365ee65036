"""From a folder to a registered container with hosted files, in one step; here to a share of this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from medperf_core import ApproveAll, DenyAll, SiteOptions
from medperf_core.entities import Container, Model, SourceKind
from medperf_core.errors import DeniedError, ExecutionError, MedperfError, TransferError, UsageError, VerificationError
from medperf_core.journeys.compatibility import run_test
from medperf_core.journeys.containers import read_local
from medperf_core.journeys.package import PARAMETERS_FILE
from medperf_core.journeys.publish import Publication, publish
from medperf_core.journeys.run_task import run_container_task
from medperf_core.plugin import Notice, Progress
from medperf_core.plugin.policy import Action, PolicySubject
from medperf_core.site.site import Site

from .conftest import Tutorial

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
        assert any(isinstance(event, Progress) and event.what.startswith("uploading") for event in told)
        report = run_test(site, benchmark=1, model=str(container.uid))
        assert report.results
        places = share(tmp_path)
        sent = [entry for entry in site.audit.entries() if entry.action == "upload" and places in entry.server]
        assert [entry.event.value for entry in sent] == ["sending", "acknowledged"] * 4
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
    for each in done.files:
        assert each.sha256.encode() in asked.bodies[0] and str(each.size).encode() in asked.bodies[0]


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
    put = 0

    def cut(self: object, request: object, on_bytes: object) -> object:
        nonlocal put
        put += 1
        if put == 3:
            raise TransferError("The connection was cut.")
        return whole(self, request, on_bytes)

    with tutorial.site() as site:
        kind = type(site.storage("file"))
        whole = kind.put
        monkeypatch.setattr(kind, "put", cut)
        with pytest.raises(TransferError, match="was cut"):
            publish(site, tutorial.model, share(tmp_path), name="cut")
        assert len(files_in(tmp_path)) == 2
        done = publish(site, tutorial.model, share(tmp_path), name="cut")
        assert [each.there for each in done.files] == [True, True, False, False]
        failed = [entry for entry in site.audit.entries() if entry.event.value == "failed" and entry.action == "upload"]
        assert len(failed) == 1 and "was cut" in failed[0].note


@contextmanager
def open_to_everybody(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str = "", other: str = ""
) -> Iterator[str]:
    """The share has a web address too, which refuses the files called ``closed`` and changes those called ``other``."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            content = (tmp_path / "share with blank" / unquote(self.path).lstrip("/")).read_bytes()
            self.send_response(403 if name == closed else 200)
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


def test_one_file_that_a_stranger_may_not_read_makes_it_private(
    tutorial: Tutorial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    with (
        tutorial.site(on_event=told.append) as site,
        open_to_everybody(site, tmp_path, monkeypatch, closed="parameters.yaml"),
    ):
        done = publish(site, tutorial.model, share(tmp_path), name="private")
        assert not done.public
        assert {each.url for each in done.files} == {each.target for each in done.files}
        assert registered(done).additional_files_tarball_url.startswith(share(tmp_path))
    [warning] = [each for each in told if isinstance(each, Notice) and each.level == "warning"]
    assert "parameters.yaml could not be read without an account" in warning.message and "403" in warning.message


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


def _used_as_data(site: Site, tutorial: Tutorial, data: Path, output: Path) -> None:
    run_container_task(site, str(tutorial.model), "infer", {"data_path": data}, output)


def test_data_are_never_uploaded(tutorial: Tutorial, tmp_path: Path) -> None:
    with tutorial.site(options=ALLOWED) as site:
        prepared = tmp_path / "data"
        with tutorial.site(options=ALLOWED) as other:
            report = run_test(other, benchmark=1)
            assert report.prepared_hash
        prepared.mkdir()
        (prepared / "cases.csv").write_text("id\n")
        site.data_folders.remember([tutorial.model / "workspace" / "additional_files"])
        with pytest.raises(DeniedError, match="data never leave this site"):
            publish(site, tutorial.model, share(tmp_path))
        site.data_folders.remember([prepared])
        (tutorial.folder / "link").symlink_to(prepared)
        with pytest.raises(DeniedError, match="used as data"):
            site.data_folders.refuse([tutorial.folder / "link" / "cases.csv"], "uploaded")
        with pytest.raises(DeniedError, match="used as data"):
            site.data_folders.refuse([tmp_path], "uploaded")
        site.data_folders.refuse([tmp_path / "database"], "uploaded")  # a name that only begins the same
        assert not (tmp_path / "share with blank").exists()


def test_data_beside_a_build_file_are_not_uploaded_in_an_image(tutorial: Tutorial, tmp_path: Path) -> None:
    manifest = tutorial.model / "mlcube.yaml"
    told = yaml.safe_load(manifest.read_text())
    del told["process"]
    manifest.write_text(yaml.safe_dump(told))
    with tutorial.site() as site:
        local = read_local(site, tutorial.model)
        assert local.spec.project is None
        [context] = [Path(each.location) for each in local.spec.sources if each.kind is SourceKind.TREE]
        site.data_folders.remember([context / "cases"])
        with pytest.raises(DeniedError, match="used as data"):
            publish(site, tutorial.model, share(tmp_path), image=True)
        assert not (tmp_path / "share with blank").exists()
        assert publish(site, tutorial.model, share(tmp_path), dry_run=True).files  # the image stays here


def test_folders_used_as_data_are_remembered(tutorial: Tutorial, tmp_path: Path) -> None:
    with tutorial.site(options=ALLOWED) as site:
        for role in ("data", "labels"):
            (tmp_path / role).mkdir()
        with pytest.raises(ExecutionError):
            run_test(site, benchmark=1, data_path=tmp_path / "data", labels_path=tmp_path / "labels")
        with pytest.raises(MedperfError):
            _used_as_data(site, tutorial, tutorial.folder / "wdbc", tmp_path / "out")
        known = site.data_folders.known()
        assert {str((tmp_path / "data").resolve()), str((tmp_path / "labels").resolve())} <= set(known)


@pytest.mark.parametrize("to", ["somewhere", "://x", ""])
def test_what_is_no_store(shared: Tutorial, to: str) -> None:
    with shared.site(approver=ApproveAll("test")) as site, pytest.raises(UsageError, match="gs://"):
        publish(site, shared.model, to)


def test_a_store_without_uploads_says_so(shared: Tutorial) -> None:
    with shared.site() as site, pytest.raises(TransferError, match="Nothing can be uploaded"):
        publish(site, shared.model, "http://127.0.0.1:1/x")
