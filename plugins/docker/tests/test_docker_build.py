"""Images built from source trees."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from medperf_docker.build import base_images

from medperf_core.entities import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import (
    CancelledError,
    ConfigurationError,
    ExecutionError,
    InvalidEntityError,
    NotFoundError,
    OfflineError,
    VerificationError,
)
from medperf_core.plugin import StepStarted, TaskLog
from medperf_core.plugin.digest import source_digest

WRONG = "sha256:" + "c" * 64


@attrs.frozen
class Tree:
    """A source tree on the shell image."""

    path: Path

    @property
    def source(self) -> ImageSource:
        return ImageSource(SourceKind.TREE, str(self.path), dockerfile="Dockerfile", name="test/model")

    @property
    def identity(self) -> ImageIdentity:
        return ImageIdentity(IdentityKind.SOURCE, source_digest(self.path))

    def write(self, dockerfile: str) -> None:
        (self.path / "Dockerfile").write_text(dockerfile)


@pytest.fixture
def tree(tmp_path: Path, client: Any, shell_image: str) -> Iterator[Tree]:
    found = Tree(tmp_path / "a tree")
    (found.path / "src").mkdir(parents=True)
    (found.path / "src" / "run.sh").write_text(f"#!/bin/sh\necho built {secrets.token_hex(4)}\n")
    (found.path / "src" / "run.sh").chmod(0o755)
    (found.path / "link").symlink_to("src/run.sh")
    (found.path / ".git").mkdir()
    (found.path / ".git" / "HEAD").write_text("never sent")
    found.write(f'ARG BASE_IMAGE={shell_image}\nFROM $BASE_IMAGE\nCOPY . /app\nENTRYPOINT ["/app/link"]\n')
    yield found
    for image in client.images(filters={"label": "medperf.source"}):
        labels = image.get("Labels") or {}
        if shell_image in labels.get("medperf.bases", "") or labels.get("medperf.bases") == "{}":
            client.remove_image(image["Id"], force=True)


def builds(site: Any) -> int:
    return sum(isinstance(event, StepStarted) and "Building" in event.what for event in site.events)


def output(site: Any, prepared: Any) -> tuple[str, ...]:
    from medperf_core.entities import CommandStyle, TaskSpec

    request = site.request("", task=TaskSpec("infer", (), CommandStyle.FIXED))
    return tuple(site.runner().run(prepared, request).tail)


def test_build_and_run(site: Any, tree: Tree) -> None:
    prepared = site.runner(offline=True).prepare(tree.source, [tree.identity])
    assert set(prepared.identities) == {tree.identity, ImageIdentity(IdentityKind.CONFIG, prepared.reference)}
    assert output(site, prepared)[0].startswith("built ")
    assert any(isinstance(event, TaskLog) and "COPY" in event.line for event in site.events)
    image = site.client.inspect_image(prepared.reference)
    assert image["Config"]["Labels"]["medperf.source"] == tree.identity.digest
    assert site.id_of(site.image) in image["Config"]["Labels"]["medperf.bases"]
    assert all(tag.startswith("localhost/medperf:") and "build" not in tag for tag in image["RepoTags"])
    assert not list((site.folder / "tmp").iterdir())


def test_an_unchanged_tree_is_not_built_again(site: Any, tree: Tree) -> None:
    first = site.runner().prepare(tree.source, [tree.identity])
    (tree.path / ".git" / "HEAD").write_text("changed")
    assert site.runner().prepare(tree.source).reference == first.reference
    assert builds(site) == 1


def test_a_changed_tree_or_argument_or_base_is_built_again(site: Any, tree: Tree, make_image: Any) -> None:
    first = site.runner().prepare(tree.source).reference
    (tree.path / "src" / "run.sh").write_text("#!/bin/sh\necho changed\n")
    second = site.runner().prepare(tree.source)
    assert output(site, second) == ("changed",)
    other = make_image()
    third = site.runner(build_args=(f"BASE_IMAGE={other}",)).prepare(tree.source).reference
    site.client.tag(make_image(), *other.split(":"), force=True)
    fourth = site.runner(build_args=(f"BASE_IMAGE={other}",)).prepare(tree.source).reference
    assert len({first, second.reference, third, fourth}) == 4
    assert builds(site) == 4
    for image in (third, fourth):
        site.client.remove_image(image, force=True)


def test_a_forged_label_is_not_believed(site: Any, tree: Tree, make_image: Any) -> None:
    forged = make_image(f'LABEL medperf.source="{tree.identity.digest}"', 'ENTRYPOINT ["/bin/echo", "forged"]')
    prepared = site.runner().prepare(tree.source, [tree.identity])
    assert prepared.reference != site.id_of(forged)
    assert output(site, prepared)[0].startswith("built ")


def test_a_removed_image_is_built_again(site: Any, tree: Tree) -> None:
    first = site.runner().prepare(tree.source)
    site.client.remove_image(first.reference, force=True)
    second = site.runner().prepare(tree.source)
    assert builds(site) == 2
    assert output(site, second)[0].startswith("built ")


def test_a_damaged_record_is_ignored(site: Any, tree: Tree) -> None:
    first = site.runner().prepare(tree.source)
    for record in (site.folder / "cache" / "docker" / "builds").iterdir():
        record.write_text('{"image": 3}')
    assert site.runner().prepare(tree.source)
    assert builds(site) == 2
    assert first


def test_a_wrong_source_is_refused_before_the_build(site: Any, tree: Tree) -> None:
    with pytest.raises(VerificationError) as caught:
        site.runner().prepare(tree.source, [ImageIdentity(IdentityKind.SOURCE, WRONG)])
    assert WRONG in str(caught.value) and tree.identity.digest in str(caught.value)
    with pytest.raises(VerificationError, match="cannot be verified"):
        site.runner().prepare(tree.source, [ImageIdentity(IdentityKind.CONFIG, WRONG)])
    assert builds(site) == 0


def test_what_was_hashed_is_what_is_built(site: Any, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree is changed in the moment after it was hashed."""
    from medperf_docker import build

    original = (tree.path / "src" / "run.sh").read_text()
    identity = tree.identity

    def hash_then_change(copy: Path) -> str:
        digest = source_digest(copy)
        (tree.path / "src" / "run.sh").write_text("#!/bin/sh\necho swapped\n")
        return digest

    monkeypatch.setattr(build, "source_digest", hash_then_change)
    prepared = site.runner().prepare(tree.source, [identity])
    assert f"echo {output(site, prepared)[0]}" in original


def test_steps_have_no_network(site: Any, tree: Tree) -> None:
    tree.write(f"""FROM {site.image}
RUN sed -n 's/:.*//p' /proc/net/dev | tr -d ' ' >/links
ENTRYPOINT ["/bin/cat", "/links"]
""")
    assert output(site, site.runner().prepare(tree.source)) == ("lo",)


def test_a_failing_build_shows_its_last_lines(site: Any, tree: Tree) -> None:
    tree.write(f"FROM {site.image}\nRUN echo the reason >&2; exit 3\n")
    with pytest.raises(ExecutionError) as caught:
        site.runner().prepare(tree.source)
    assert "the reason" in str(caught.value) and "build-network" in str(caught.value)
    assert site.containers() == []


def test_steps_cannot_name_the_result(site: Any, tree: Tree, own_image: str) -> None:
    short = site.id_of(own_image)[7:19]
    tree.write(f"FROM {site.image}\nRUN echo Successfully built {short}; echo Successfully tagged {own_image}\n")
    assert site.runner().prepare(tree.source).reference != site.id_of(own_image)


def test_offline_and_the_base_is_not_here(site: Any, tree: Tree) -> None:
    for line in (
        "FROM registry.invalid/none:1",
        f"FROM {site.image}\nCOPY --from=registry.invalid/none:1 /x /x",
        "FROM $UNKNOWN",
    ):
        tree.write(line + "\n")
        with pytest.raises(OfflineError):
            site.runner(offline=True).prepare(tree.source)


def test_a_base_that_is_not_here_is_pulled(site: Any, tree: Tree, own_image: str) -> None:
    from tests.engines import require

    name = f"{require('registry')['MEDPERF_TEST_REGISTRY']}/medperf-test/{secrets.token_hex(4)}"
    site.client.tag(own_image, name, "1")
    assert not any("error" in line for line in site.client.push(name, "1", stream=True, decode=True))
    identifier = site.id_of(own_image)
    site.client.remove_image(identifier, force=True)
    prepared = site.runner(build_args=(f"BASE_IMAGE={name}:1",)).prepare(tree.source)
    assert output(site, prepared)[0].startswith("built ")
    for image in (prepared.reference, identifier):
        site.client.remove_image(image, force=True)


@pytest.mark.parametrize("name", ["/etc/passwd", "../Dockerfile", "gone/Dockerfile"])
def test_build_files_outside_the_tree(site: Any, tree: Tree, name: str) -> None:
    (tree.path.parent / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises((InvalidEntityError, NotFoundError), match="build file"):
        site.runner().prepare(attrs.evolve(tree.source, dockerfile=name))


def test_a_tree_without_a_build_file(site: Any, tree: Tree) -> None:
    source = attrs.evolve(tree.source, dockerfile=None)
    assert not site.runner().supports(source)
    with pytest.raises(ExecutionError, match="no build file"):
        site.runner().prepare(source)


def test_build_arguments_that_are_none(site: Any, tree: Tree) -> None:
    with pytest.raises(ConfigurationError, match="NAME=VALUE"):
        site.runner(build_args=("BASE_IMAGE",)).prepare(tree.source)


def test_cancelling_a_build(site: Any, tree: Tree) -> None:
    tree.write(f"FROM {site.image}\nRUN sleep 60\n")
    threading.Timer(1.5, site.cancel.cancel).start()
    begun = time.monotonic()
    with pytest.raises(CancelledError):
        site.runner().prepare(tree.source)
    assert time.monotonic() - begun < 15
    deadline = time.monotonic() + 15
    while site.containers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert site.containers() == []


def test_base_images_are_read_from_the_build_file() -> None:
    text = """
    # FROM comment
    ARG BASE=python:3.11
    ARG EMPTY
    FROM --platform=linux/amd64 \\
        ${BASE} AS first
    FROM ${OTHER:-debian:12} as second
    FROM first
    COPY --from=second /a /a
    COPY --chown=1:1 --from=busybox:1 /b /b
    COPY --from=0 /c /c
    FROM scratch
    FROM $NOWHERE
    """
    assert list(base_images(text, {})) == ["python:3.11", "debian:12", "busybox:1", "$NOWHERE"]
    assert next(base_images(text, {"BASE": "mine:1"})) == "mine:1"
