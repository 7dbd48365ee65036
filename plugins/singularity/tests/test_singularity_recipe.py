"""What a Dockerfile comes to where nothing of it is run, and copying files past an image's own links."""

from __future__ import annotations

from pathlib import Path

import pytest
from medperf_singularity.assemble import copy_into, inside
from medperf_singularity.config import ImageConfig
from medperf_singularity.recipe import Copy, read_recipe

from medperf_core.errors import ExecutionError, InvalidEntityError
from medperf_core.plugin.dockerfile import instructions

DOCKERFILE = """\
# syntax=docker/dockerfile:1
ARG BASE=python:3.11
FROM ${BASE} AS only
ARG VERSION=1.0
LABEL maintainer="somebody"
ENV A=one B="two words" \\
    # a comment in between
    C=$VERSION
ENV D three words
WORKDIR /app
WORKDIR inner
COPY --chmod=755 *.py "with space.txt" /project/
COPY src .
USER 1000:1000
ENTRYPOINT ["python3", "/project/main.py"]
CMD ["--help"]
"""
BASE = ImageConfig(("old",), ("cmd",), {"PATH": "/bin", "A": "zero"}, "/base", "root", "amd64")


def test_a_dockerfile_without_steps_that_run() -> None:
    recipe = read_recipe(DOCKERFILE, {"BASE": "localhost/mine:1"})
    assert recipe.base == "localhost/mine:1"
    assert recipe.copies == (Copy(("*.py", "with space.txt"), "/project/", 0o755), Copy(("src",), "/app/inner/"))
    assert recipe.configure(BASE) == ImageConfig(
        ("python3", "/project/main.py"),
        ("--help",),
        {"PATH": "/bin", "A": "one", "B": "two words", "C": "1.0", "D": "three words"},
        "/app/inner",
        "1000:1000",
        "amd64",
    )


def test_what_is_not_said_is_the_base_images() -> None:
    assert read_recipe("FROM a\nCOPY x /x\n", {}).configure(BASE) == BASE
    assert read_recipe("FROM a\nWORKDIR sub\n", {}).configure(BASE).working_dir == "/base/sub"
    new = read_recipe("FROM a\nENTRYPOINT run me $HOME\n", {}).configure(BASE)
    assert new.entrypoint == ("/bin/sh", "-c", "run me $HOME")
    assert new.cmd == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM a\nRUN pip install b\n", "Line 2 .* runs a program"),
        ("FROM a\nFROM b\n", "second stage"),
        ("FROM a\nCOPY --from=b /x /x\n", "copies with --from=b"),
        ("FROM a\nADD https://host/x /x\n", "adds https://host/x"),
        ("FROM a\nADD x.tar.gz /x\n", "adds x.tar.gz"),
        ("FROM a\nCOPY <<EOF /x\n", "here-document"),
        ("FROM a\nCOPY x y\n", "relative to the base image"),
        ("FROM scratch\n", "starts from scratch"),
        ("FROM $NOWHERE\n", "starts from"),
        ("FROM a\nPWN now\n", "has PWN"),
    ],
)
def test_what_would_have_to_be_run_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(ExecutionError, match=said) as refused:
        read_recipe(text, {})
    assert "docker save" in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "COPY x /x\n", "FROM a\nCOPY ../x /x\n", "FROM a\nCOPY x\n", 'FROM a\nENV A="b\n']
)
def test_what_is_no_dockerfile(text: str) -> None:
    with pytest.raises(InvalidEntityError):
        read_recipe(text, {})


def test_continued_lines_and_options() -> None:
    found = list(instructions('COPY --a=1 --b x \\\n  y \\\n# between\n  z\n\n  cmd ["p"]\n'))
    assert [(each.name, each.options, each.words(), each.line) for each in found] == [
        ("COPY", ("--a=1", "--b"), ("x", "y", "z"), 1),
        ("CMD", (), ("p",), 6),
    ]


def test_files_land_inside_whatever_the_images_links_say(tmp_path: Path) -> None:
    tree, root, outside = tmp_path / "tree", tmp_path / "root", tmp_path / "outside"
    for folder in (tree / "sub", root / "usr" / "bin", outside):
        folder.mkdir(parents=True)
    (tree / "a.py").write_text("a")
    (tree / "run.sh").write_text("run")
    (tree / "run.sh").chmod(0o755)
    (tree / "sub" / "b").write_text("b")
    (tree / "link").symlink_to("a.py")
    (root / "bin").symlink_to("usr/bin")
    (root / "evil").symlink_to(outside)
    (root / "up").symlink_to("../../../../outside")
    (root / "file").symlink_to(outside / "victim")
    copy_into(tree, root, Copy(("*.py", "run.sh", "link"), "/bin/"))
    assert (root / "usr" / "bin" / "a.py").read_text() == "a"
    assert (root / "usr" / "bin" / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (root / "usr" / "bin" / "link").is_symlink()
    copy_into(tree, root, Copy(("a.py",), "/evil/deep/x.py"))
    copy_into(tree, root, Copy(("sub",), "/up"))
    copy_into(tree, root, Copy(("a.py",), "/file"))
    copy_into(tree, root, Copy((".",), "/all"))
    assert not any(outside.iterdir())
    assert (root / "all" / "sub" / "b").read_text() == "b"
    assert str(inside(root, "/evil")).startswith(str(root))


def test_circles_missing_files_and_files_in_the_way(tmp_path: Path) -> None:
    tree, root = tmp_path / "tree", tmp_path / "root"
    tree.mkdir()
    root.mkdir()
    (tree / "a").write_text("a")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    (root / "plain").write_text("")
    with pytest.raises(ExecutionError, match="circle"):
        copy_into(tree, root, Copy(("a",), "/one/x"))
    with pytest.raises(InvalidEntityError, match="not there"):
        copy_into(tree, root, Copy(("b",), "/x"))
    with pytest.raises(ExecutionError, match="cannot be copied"):
        copy_into(tree, root, Copy(("a",), "/plain/x"))
