"""Images of real registries: by digest, with and without a login, and without any connection when they are here."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from docker.errors import ImageNotFound

from medperf_core.entities import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import CancelledError, ExecutionError, InvalidEntityError, OfflineError, VerificationError
from medperf_core.plugin import StepStarted
from tests.engines import require

WRONG = "sha256:" + "a" * 64


@attrs.frozen
class Pushed:
    """An image in a registry, and no longer here."""

    reference: str
    repository: str
    config: ImageIdentity
    manifest: ImageIdentity

    @property
    def source(self) -> ImageSource:
        return ImageSource(SourceKind.REGISTRY, self.reference)


def push(client: Any, image: str, registry: str, name: str | None = None, **options: Any) -> Pushed:
    repository = name or f"{registry}/medperf-test/{secrets.token_hex(6)}"
    client.tag(image, repository, "1")
    digest = ""
    for message in client.push(repository, "1", stream=True, decode=True, **options):
        assert not message.get("error"), message
        digest = (message.get("aux") or {}).get("Digest", digest)
    config = client.inspect_image(image)["Id"]
    client.remove_image(config, force=True)
    return Pushed(
        f"{repository}:1",
        repository,
        ImageIdentity(IdentityKind.CONFIG, config),
        ImageIdentity(IdentityKind.MANIFEST, digest),
    )


@pytest.fixture
def registry() -> str:
    return require("registry")["MEDPERF_TEST_REGISTRY"]


@pytest.fixture
def pushed(client: Any, own_image: str, registry: str) -> Iterator[Pushed]:
    found = push(client, own_image, registry)
    yield found
    try:
        client.remove_image(found.config.digest, force=True)
    except ImageNotFound:
        pass


def here(client: Any, pushed: Pushed) -> bool:
    try:
        client.inspect_image(pushed.config.digest)
    except ImageNotFound:
        return False
    return True


def pulls(site: Any) -> int:
    return sum(isinstance(event, StepStarted) and "Pulling" in event.what for event in site.events)


def test_pull_and_run(site: Any, pushed: Pushed) -> None:
    prepared = site.runner().prepare(pushed.source, [pushed.manifest, pushed.config])
    assert prepared.reference == pushed.config.digest
    assert set(prepared.identities) == {pushed.manifest, pushed.config}
    assert pulls(site) == 1
    request = site.request("echo ran")
    assert site.runner().run(prepared, request).tail == ("ran",)


@pytest.mark.parametrize("what", ["manifest", "config"])
def test_either_identity_is_enough(site: Any, pushed: Pushed, what: str) -> None:
    prepared = site.runner().prepare(pushed.source, [getattr(pushed, what)])
    assert set(prepared.identities) == {pushed.manifest, pushed.config}


def test_nothing_recorded_takes_what_is_there(site: Any, pushed: Pushed) -> None:
    assert site.runner().prepare(pushed.source).reference == pushed.config.digest
    by_digest = ImageSource(SourceKind.REGISTRY, f"{pushed.repository}@{pushed.manifest.digest}")
    assert site.runner().prepare(by_digest).reference == pushed.config.digest
    assert pulls(site) == 1


def test_wrong_config_is_refused_and_removed(site: Any, pushed: Pushed) -> None:
    with pytest.raises(VerificationError) as caught:
        site.runner().prepare(pushed.source, [pushed.manifest, ImageIdentity(IdentityKind.CONFIG, WRONG)])
    assert WRONG in str(caught.value) and pushed.config.digest in str(caught.value)
    assert not here(site.client, pushed)


def test_wrong_manifest_is_refused_without_a_pull_and_names_what_is_there(site: Any, pushed: Pushed) -> None:
    with pytest.raises(VerificationError) as caught:
        site.runner().prepare(pushed.source, [ImageIdentity(IdentityKind.MANIFEST, WRONG)])
    assert WRONG in str(caught.value) and pushed.manifest.digest in str(caught.value)
    assert not here(site.client, pushed)


def test_a_reference_that_pins_another_digest_is_refused(site: Any, pushed: Pushed) -> None:
    source = ImageSource(SourceKind.REGISTRY, f"{pushed.repository}@{WRONG}")
    with pytest.raises(VerificationError):
        site.runner(offline=True).prepare(source, [pushed.manifest])


def test_identities_of_other_kinds_cannot_be_compared(site: Any, pushed: Pushed) -> None:
    with pytest.raises(VerificationError, match="cannot be verified"):
        site.runner().prepare(pushed.source, [ImageIdentity(IdentityKind.SIF, WRONG)])
    assert not here(site.client, pushed)


def test_a_tag_that_moved_still_gives_the_recorded_image(
    site: Any, pushed: Pushed, make_image: Any, registry: str
) -> None:
    other = push(site.client, make_image(), registry, pushed.repository)
    assert other.reference == pushed.reference and other.manifest != pushed.manifest
    prepared = site.runner().prepare(pushed.source, [pushed.manifest])
    assert prepared.reference == pushed.config.digest


def test_a_tag_moved_between_verification_and_run_changes_nothing(site: Any, own_image: str, make_image: Any) -> None:
    prepared = site.runner().prepare(ImageSource(SourceKind.REGISTRY, own_image))
    site.client.tag(make_image('ENTRYPOINT ["/bin/echo", "hijacked"]'), *own_image.split(":"), force=True)
    mark = site.runner().run(prepared, site.request("md5sum </data/mark")).tail
    site.client.tag(prepared.reference, *own_image.split(":"), force=True)
    site.image = own_image
    assert site.run("md5sum </data/mark").tail == mark


def test_local_tags_stay_where_they_are(site: Any, pushed: Pushed, shell_image: str) -> None:
    site.client.tag(shell_image, pushed.repository, "1")
    prepared = site.runner().prepare(pushed.source, [pushed.config])
    assert prepared.reference == pushed.config.digest
    assert site.id_of(pushed.reference) == site.id_of(shell_image) != prepared.reference
    site.client.remove_image(pushed.reference)


def test_offline_uses_what_is_here_under_any_name(site: Any, pushed: Pushed) -> None:
    with pytest.raises(OfflineError):
        site.runner(offline=True).prepare(pushed.source, [pushed.manifest])
    site.runner().prepare(pushed.source, [pushed.manifest])
    elsewhere = ImageSource(SourceKind.REGISTRY, "registry.invalid/never/asked:1")
    for source in (pushed.source, elsewhere):
        for identity in (pushed.manifest, pushed.config):
            assert site.runner(offline=True).prepare(source, [identity]).reference == pushed.config.digest
    assert pulls(site) == 1


def test_a_pulled_image_survives_pruning(site: Any, pushed: Pushed) -> None:
    site.runner().prepare(pushed.source, [pushed.manifest])
    dangling = site.client.images(filters={"dangling": True}, quiet=True)
    assert pushed.config.digest not in dangling
    assert site.client.inspect_image(pushed.config.digest)["RepoTags"]


def test_login_of_docker_itself(site: Any, own_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = require("registry-auth")
    host, user, word = (values[f"MEDPERF_TEST_REGISTRY_{key}"] for key in ("AUTH", "USER", "PASSWORD"))
    login = {"username": user, "password": word}
    pushed = push(site.client, own_image, host, auth_config=login)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("HOME", str(empty))
    monkeypatch.setenv("DOCKER_CONFIG", str(empty))
    with pytest.raises(ExecutionError, match="docker login"):
        site.runner().prepare(pushed.source, [pushed.manifest])

    folder = tmp_path / "config"
    helper = tmp_path / "bin" / "docker-credential-medperftest"
    folder.mkdir()
    helper.parent.mkdir()
    helper.write_text(f"#!/bin/sh\nread host\necho '{json.dumps({'Username': user, 'Secret': word})}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:/usr/bin:/bin")
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    for settings in (
        {"auths": {host: {"auth": base64.b64encode(f"{user}:{word}".encode()).decode()}}},
        {"credHelpers": {host: "medperftest"}},
    ):
        (folder / "config.json").write_text(json.dumps(settings))
        prepared = site.runner().prepare(pushed.source, [pushed.manifest])
        assert prepared.reference == pushed.config.digest
        site.client.remove_image(pushed.config.digest, force=True)
    (folder / "config.json").write_text(json.dumps({"credHelpers": {host: "not-installed"}}))
    with pytest.raises(ExecutionError, match="not-installed"), pytest.warns(UserWarning, match="not-installed"):
        site.runner().prepare(pushed.source, [pushed.manifest])


def test_a_registry_that_is_not_there(site: Any) -> None:
    with pytest.raises(ExecutionError) as caught:
        site.runner().prepare(ImageSource(SourceKind.REGISTRY, "127.0.0.1:9/medperf/none:1"))
    assert "127.0.0.1:9" in str(caught.value) and caught.value.hint


def test_an_image_that_is_not_there(site: Any, registry: str) -> None:
    with pytest.raises(ExecutionError) as caught:
        site.runner().prepare(ImageSource(SourceKind.REGISTRY, f"{registry}/medperf-test/none:1"))
    assert "none" in str(caught.value) and "pushed it" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "http://host/x", "Upper/Case", "a b", "x@sha256:12", "x:", "../x", "-x", "x\n", "x?y=1", "x@md5:" + "0" * 64],
)
def test_references_that_are_none(site: Any, text: str) -> None:
    with pytest.raises(InvalidEntityError):
        site.runner().prepare(ImageSource(SourceKind.REGISTRY, text))


def test_references_in_parts() -> None:
    from medperf_core.plugin.image_reference import Reference

    assert Reference.parse("host:5000/a/b") == Reference("host:5000/a/b", "latest", None)
    assert Reference.parse("localhost/a:v1") == Reference("localhost/a", "v1", None)
    assert Reference.parse("a") == Reference("a", "latest", None)
    assert Reference.parse(f"h.example/a:1@{WRONG}") == Reference("h.example/a", "1", WRONG)
    assert Reference.parse(f"h.example/a:1@{WRONG}").local == f"h.example/a@{WRONG}"


def test_cancelling_before_a_pull(site: Any, pushed: Pushed) -> None:
    site.cancel.cancel()
    with pytest.raises(CancelledError):
        site.runner().prepare(pushed.source, [pushed.manifest])
    assert not here(site.client, pushed)


def test_cancelling_a_pull_that_hangs(site: Any) -> None:
    """A registry that takes connections and never answers."""
    import socket
    import threading
    import time

    with socket.create_server(("127.0.0.1", 0)) as listener:
        reference = f"127.0.0.1:{listener.getsockname()[1]}/medperf/slow@{WRONG}"
        threading.Timer(1, site.cancel.cancel).start()
        begun = time.monotonic()
        with pytest.raises(CancelledError):
            site.runner().prepare(ImageSource(SourceKind.REGISTRY, reference))
        assert time.monotonic() - begun < 10
