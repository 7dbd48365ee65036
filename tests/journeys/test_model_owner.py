"""The model owner's journey through the public API, on the process runner and the embedded server."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from medperf_core import DenyAll
from medperf_core.entities import Approval, Benchmark, Container, IdentityKind, Model, State
from medperf_core.errors import (
    DeniedError,
    InvalidEntityError,
    PermissionDeniedError,
    ServerError,
    TransferError,
    UsageError,
    VerificationError,
)
from medperf_core.journeys.associate import answer, associate
from medperf_core.journeys.package import package
from medperf_core.journeys.submit import HostedFiles, submit_container
from medperf_core.plugin import Event
from medperf_core.plugin.server import Party
from medperf_core.site.site import Site

from .conftest import Tutorial


def hosted(tutorial: Tutorial, site: Site) -> HostedFiles:
    made = package(site, tutorial.model)
    url = {item.name: (made.folder / item.name).as_uri() for item in made.files}
    return HostedFiles(
        mlcube=url["mlcube.yaml"], parameters=url["parameters.yaml"], additional=url["additional_files.tar.gz"]
    )


def test_the_tutorial_is_what_the_issue_of_its_commands_needs(shared: Tutorial) -> None:
    with shared.site() as site:
        benchmark = site.server.get(Benchmark, 1)
        assert (benchmark.approval_status, benchmark.state) == (Approval.APPROVED, State.OPERATION)
        assert [item.id for item in site.server.list(Container)] == [1, 2, 3]
        assert benchmark.metadata["results"]["cases"] == 30
        assert site.server.me().username == "modelowner"


def test_from_a_folder_to_an_approved_association(tutorial: Tutorial) -> None:
    with tutorial.site() as site:
        model = submit_container(site, "my-modelref-cube", hosted(tutorial, site))
        assert isinstance(model, Model) and model.container is not None
        assert (model.container.id, model.container.state) == (4, State.OPERATION)
        assert set(model.container.sources()) == {"mlcube", "parameters", "additional", "project"}
        assert [image.kind for image in model.container.images()] == [IdentityKind.SOURCE]
        assert model.container.container_config["name"] == "WDBC neural network"
        assert model.container.parameters_config == {"decimals": 6}
        asked = associate(site, benchmark=1, container=4)
        assert asked.approval_status is Approval.PENDING
        assert asked.metadata["test_result"]["results"]["cases"] == 30
        with pytest.raises(ServerError):
            answer(site, approve=True, benchmark=1, container=4)
    with tutorial.committee() as site:
        assert answer(site, approve=True, benchmark=1, container=4).approval_status is Approval.APPROVED
    with tutorial.site() as site:
        (final,) = site.server.associations(Party.MODEL, benchmark=1)
        assert final.approval_status is Approval.APPROVED


def test_a_rejected_request_can_be_made_again(tutorial: Tutorial) -> None:
    with tutorial.site() as site:
        submit_container(site, "again", hosted(tutorial, site))
        associate(site, benchmark=1, container=4)
    with tutorial.committee() as site:
        assert answer(site, approve=False, benchmark=1, container=4).approval_status is Approval.REJECTED
    with tutorial.site() as site:
        assert associate(site, benchmark=1, container=4).approval_status is Approval.PENDING


def test_development_can_be_edited_and_operation_cannot(tutorial: Tutorial) -> None:
    with tutorial.site() as site:
        draft = submit_container(site, "draft", hosted(tutorial, site), development=True)
        assert draft.state is State.DEVELOPMENT
        assert site.gate.update(Model, draft.uid, {"name": "better name"}).name == "better name"
        site.gate.update(Model, draft.uid, {"state": "OPERATION"})
        with pytest.raises(InvalidEntityError):
            site.gate.update(Model, draft.uid, {"name": "too late"})


def test_nothing_is_sent_without_a_yes(tutorial: Tutorial) -> None:
    with tutorial.site(approver=DenyAll()) as site:
        with pytest.raises(DeniedError):
            submit_container(site, "unwanted", hosted(tutorial, site))
        assert not list(site.server.list(Container, mine=True))
        assert site.audit.entries()[-1].event == "denied"


def test_a_wrong_hash_keeps_and_sends_nothing(tutorial: Tutorial) -> None:
    with tutorial.site() as site:
        import attrs

        files = attrs.evolve(hosted(tutorial, site), additional_hash="0" * 64)
        with pytest.raises(VerificationError, match="expected SHA-256 0000"):
            submit_container(site, "wrong", files)
        assert not list(site.server.list(Container, mine=True))


def test_a_file_that_changed_after_submission_is_not_used(tutorial: Tutorial) -> None:
    with tutorial.site() as site:
        submit_container(site, "changing", hosted(tutorial, site))
        digest = site.server.get(Container, 4).additional_files_tarball_hash
        site.cache.remove(digest)
        (tutorial.model / "deploy" / "additional_files.tar.gz").write_bytes(b"something else")
        with pytest.raises(VerificationError):
            associate(site, benchmark=1, container=4)


def test_a_missing_project_file_is_said(tutorial: Tutorial) -> None:
    with tutorial.site() as site:
        files = hosted(tutorial, site)
        (tutorial.model / "deploy" / "project.tar.gz").unlink()
        with pytest.raises(TransferError, match=r"project\.tar\.gz was looked for beside it") as caught:
            submit_container(site, "incomplete", files)
        assert "--project-file" in (caught.value.hint or "")
        with pytest.raises(TransferError) as caught:
            submit_container(site, "incomplete", attrs.evolve(files, project=(tutorial.folder / "no.tar.gz").as_uri()))
        assert "beside" not in caught.value.message


@pytest.mark.parametrize("part", ["mlcube", "parameters", "additional", "image", "project"])
@pytest.mark.parametrize("value", ["abc", "", f"sha256:{'0' * 64}", "g" * 64])
def test_a_hash_that_is_none_is_found_before_anything_is_fetched(part: str, value: str, shared: Tutorial) -> None:
    told: list[Event] = []
    files = HostedFiles(mlcube="file:///nowhere/mlcube.yaml", **{f"{part}_hash": value})
    with shared.site(on_event=told.append) as site, pytest.raises(UsageError, match="is not a SHA-256") as caught:
        submit_container(site, "malformed", files)
    assert caught.value.exit_code == 2 and not told


@pytest.mark.parametrize("part", ["additional", "project"])
def test_an_archive_that_is_refused_is_called_by_its_address(part: str, tutorial: Tutorial, tmp_path: Path) -> None:
    archive = tmp_path / "weights.tar.gz"
    with tutorial.site() as site:
        files = attrs.evolve(hosted(tutorial, site), **{part: archive.as_uri()})
        for content, words in ((b"", r"is empty \(0 bytes\)"), (b"\x1f\x8b cut", "was refused")):
            archive.write_bytes(content)
            with pytest.raises(InvalidEntityError, match=rf"{archive.as_uri()} {words}") as caught:
                submit_container(site, "empty", files)
            assert str(site.cache.root) not in str(caught.value)


def test_all_that_is_missing_is_said_at_once(tutorial: Tutorial) -> None:
    with tutorial.site() as site:
        files = HostedFiles(mlcube=hosted(tutorial, site).mlcube)
        with pytest.raises(InvalidEntityError) as caught:
            submit_container(site, "bare", files)
        text = str(caught.value)
        assert "--parameters-file" in text and "--additional-file" in text


def test_an_archive_that_cannot_be_unpacked_safely_is_found_at_submission(tutorial: Tutorial, tmp_path: Path) -> None:
    import attrs

    evil = tmp_path / "evil.tar.gz"
    evil.write_bytes(b"not an archive")
    with tutorial.site() as site:
        files = attrs.evolve(hosted(tutorial, site), additional=str(evil))
        with pytest.raises(InvalidEntityError):
            submit_container(site, "evil", files)


def test_a_stranger_cannot_answer(tutorial: Tutorial) -> None:
    with tutorial.site() as site:
        submit_container(site, "mine", hosted(tutorial, site))
        associate(site, benchmark=1, container=4)
    with tutorial.admin() as site:
        from medperf_core.entities import User
        from medperf_core.journeys.account import login

        site.server.add_user(User(username="stranger"))  # type: ignore[attr-defined]
        login(site, "stranger", lambda *question: "")
        with pytest.raises((PermissionDeniedError, ServerError)):
            answer(site, approve=True, benchmark=1, container=4)


def test_every_submission_is_in_the_audit_log_and_stamped(tutorial: Tutorial) -> None:
    with tutorial.site() as site:
        stamped = submit_container(site, "logged", hosted(tutorial, site)).metadata
        head = site.audit.verify()
        assert head.count >= 2
        assert stamped["client_uuid"] and stamped["audit"]["count"] < head.count


def test_a_repeated_command_goes_on_and_makes_no_second_one(tutorial: Tutorial) -> None:
    with tutorial.site() as site:
        files = hosted(tutorial, site)
        first = submit_container(site, "once", files)
        sent = site.audit.head().count
        assert submit_container(site, "once", files) == first
        asked = associate(site, benchmark=1, container=4)
        assert associate(site, benchmark=1, container=4) == asked
        assert site.audit.head().count == sent + 2
    with tutorial.committee() as site:
        answered = answer(site, approve=True, benchmark=1, container=4)
        assert answer(site, approve=True, benchmark=1, container=4) == answered


def test_what_the_server_would_refuse_is_found_before_the_test(tutorial: Tutorial) -> None:
    with tutorial.site() as site:
        submit_container(site, "draft", hosted(tutorial, site), development=True)
        before = len(site.records.list().reports)
        with pytest.raises(InvalidEntityError, match="DEVELOPMENT"):
            associate(site, benchmark=1, container=4)
        with pytest.raises(InvalidEntityError, match="yours"):
            associate(site, benchmark=1, container=2)
        assert len(site.records.list().reports) == before


@pytest.mark.parametrize("secret", ["https://user:pw@host/x", "https://host/x?X-Amz-Signature=abcdef0123456789",
                                    "https://host/x?token=abcdef0123456789"])  # fmt: skip
def test_an_address_with_a_secret_is_not_registered(tutorial: Tutorial, secret: str) -> None:
    from medperf_core.errors import UsageError
    from medperf_core.journeys.submit import _check_address
    from medperf_core.site.fetch import Fetched

    with tutorial.site() as site, pytest.raises(UsageError, match="password, token or signature"):
        _check_address(site, Fetched(Path("/x"), "0" * 64, 1, secret, "https://host/x"))
