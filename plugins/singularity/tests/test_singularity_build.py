"""Images put together from a source tree and a base image, with nothing of either run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medperf_core.entities import (
    CommandStyle,
    IdentityKind,
    ImageIdentity,
    ImageSource,
    SourceKind,
    TaskSpec,
)
from medperf_core.errors import ExecutionError, NotFoundError, VerificationError
from medperf_core.plugin import Event, StepStarted, TaskRequest
from medperf_core.plugin.digest import source_digest

DOCKERFILE = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ENV WORD=tree
WORKDIR /work
COPY program.sh data /project/
ENTRYPOINT ["/bin/sh", "/project/program.sh"]
"""
PROGRAM = 'echo "$WORD $GREETING in $PWD: $(cat /project/value)"\n'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree with blank"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "value").write_text("7")
    (folder / "program.sh").write_text(PROGRAM)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    return folder


@pytest.fixture
def base(tmp_path: Path, make_image: Callable[..., Any]) -> Path:
    path = tmp_path / "base.tar"
    make_image().save(path)
    return path


def source(tree: Path) -> ImageSource:
    return ImageSource(SourceKind.TREE, str(tree), dockerfile="Dockerfile", name="localhost/mine:1")


def identity(tree: Path) -> ImageIdentity:
    return ImageIdentity(IdentityKind.SOURCE, source_digest(tree))


def settings(base: Path) -> dict[str, Any]:
    return {"build_args": (f"BASE_IMAGE={base}",)}


def conversions(place: Any) -> list[Event]:
    found: list[Event] = place.told(StepStarted, "Converting")
    return found


def test_a_tree_is_built_once_and_runs_as_its_dockerfile_says(place: Any, tree: Path, base: Path) -> None:
    runner = place.runner(settings(base))
    prepared = runner.prepare(source(tree), (identity(tree),))
    assert {each.kind for each in prepared.identities} == {IdentityKind.SOURCE, IdentityKind.SIF}
    assert identity(tree) in prepared.identities
    assert len(conversions(place)) == 2  # the base, and the image
    assert place.runner(settings(base)).prepare(source(tree), (identity(tree),)) == prepared
    assert len(conversions(place)) == 2
    task = TaskSpec("infer", (), CommandStyle.FIXED)
    outcome = runner.run(prepared, TaskRequest(task, (), place.folder / "log"))
    assert outcome.exit_code == 0, outcome.tail
    assert outcome.tail == ("tree good day in /work: 7",)
    assert place.work() == []


def test_another_tree_base_or_argument_is_another_image(
    place: Any, tree: Path, base: Path, tmp_path: Path, make_image: Callable[..., Any]
) -> None:
    first = place.runner(settings(base)).prepare(source(tree))
    other = tmp_path / "other.tar"
    make_image(config={"Env": ["PATH=/bin", "GREETING=good night"]}).save(other)
    second = place.runner(settings(other)).prepare(source(tree))
    (tree / "program.sh").write_text("echo other\n")
    third = place.runner(settings(base)).prepare(source(tree))
    assert len({each.reference for each in (first, second, third)}) == 3


def test_a_tree_that_is_not_the_recorded_one_is_not_built(place: Any, tree: Path, base: Path) -> None:
    recorded = identity(tree)
    (tree / "program.sh").write_text("echo changed\n")
    with pytest.raises(VerificationError, match="not the recorded one"):
        place.runner(settings(base)).prepare(source(tree), (recorded,))
    assert place.kept() == []


def test_what_would_have_to_run_is_refused(place: Any, tree: Path, base: Path) -> None:
    (tree / "Dockerfile").write_text(f"{DOCKERFILE}RUN touch /built\n")
    with pytest.raises(ExecutionError, match=r"Line 7 .* runs a program .*"):
        place.runner(settings(base)).prepare(source(tree))


def test_a_link_of_the_tree_does_not_lead_the_engine_out(place: Any, tree: Path, base: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (tree / "hosts").symlink_to("program.sh")
    (tree / "Dockerfile").write_text(f"{DOCKERFILE}COPY hosts /etc/hosts\n")
    with pytest.raises(VerificationError, match=r"symbolic link.*in the place of etc/hosts"):
        place.runner(settings(base)).prepare(source(tree))
    assert not any(victim.iterdir())


def test_a_base_image_that_is_not_there(place: Any, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="cannot be read"):
        place.runner(settings(tmp_path / "none.sif")).prepare(source(tree))
