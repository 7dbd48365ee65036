"""The pages for plugin authors: the first plugin is built, installed and used as it stands; every hook is listed."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from medperf_core import plugin
from medperf_core.plugin import descriptors, hookspecs
from medperf_core.plugin.manager import HOOKS as SEAM_HOOKS
from tests.plugin.test_hookspecs import HOOKS, example_of

from .pages import DOCS, Console, blocks, headings, rows

FIRST = DOCS / "plugins" / "first-plugin.md"
ALL = DOCS / "plugins" / "hooks.md"
SEAMS = {
    "runner": plugin.Runner,
    "packager": plugin.Packager,
    "storage": plugin.Storage,
    "server client": plugin.ServerClient,
    "executor": plugin.Executor,
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The page's files, and the folder that they were installed into."""
    folder = tmp_path_factory.mktemp("plugin")
    project, target = folder / "medperf-share", folder / "site-packages"
    project.mkdir()
    (toml,) = blocks(FIRST, "toml")
    module, test = blocks(FIRST, "python")
    for name, block in {"pyproject.toml": toml, "medperf_share.py": module, "test_share.py": test}.items():
        (project / name).write_text(block.text)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            str(target),
            str(project),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return project, target


def test_the_files_of_the_page_are_those_that_are_written(installed: tuple[Path, Path]) -> None:
    project, _ = installed
    tree = next(block.text for block in blocks(FIRST, "text") if "pyproject" in block.text)
    assert {line.strip() for line in tree.splitlines()[1:]} == {
        file.name for file in project.iterdir() if file.is_file()
    }


def test_plugin_ls_shows_it_as_the_page_does(installed: tuple[Path, Path], tmp_path: Path) -> None:
    _, target = installed
    code, output = Console(tmp_path, PYTHONPATH=str(target)).run("medperf plugin ls")
    shown = next(block.text for block in blocks(FIRST, "text") if "Provides" in block.text)
    line = next(line for line in shown.splitlines() if line.startswith("share "))
    assert code == 0 and line.split() in [found.split() for found in output.splitlines()]


def test_its_own_test_passes(installed: tuple[Path, Path]) -> None:
    project, target = installed
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MEDPERF_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_share.py"],
        cwd=project,
        env={**variables, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_a_model_is_submitted_from_the_share_by_the_commands_of_the_page(
    installed: tuple[Path, Path], tmp_path: Path
) -> None:
    console = Console(tmp_path / "work", PYTHONPATH=str(installed[1]))
    share = tmp_path / "share"
    for command in (
        "medperf tutorial start model",
        "medperf mlcube package medperf_tutorial/MODEL/mlcube",
        f"mkdir -p {share} && cp -r medperf_tutorial/MODEL/mlcube/deploy {share}/my-model",
    ):
        code, output = console.run(command)
        assert code == 0, output
    commands = next(block.text for block in blocks(FIRST, "shell") if "share.root" in block.text)
    for command in commands.replace("/srv/share", str(share)).strip().splitlines():
        code, output = console.run(command, "y\n")
        assert code == 0, output
    assert "Registered my-model as MLCube 4" in output
    assert "--share-root" in console.run("medperf --help")[1]


def test_the_table_of_seams_is_whole() -> None:
    table = {row[0]: row for row in rows(FIRST, "seam")}
    assert table.keys() == SEAMS.keys()
    for name, base in SEAMS.items():
        assert table[name][2] == base.__name__
        assert set(re.findall(r"\w+", table[name][3])) == set(base.__abstractmethods__)
    assert [row[1] for row in table.values()] == list(SEAM_HOOKS.values())


def test_every_hook_is_a_heading_with_its_exact_arguments() -> None:
    exact = [
        f"{name}({', '.join(word for word in inspect.signature(hook).parameters if word != 'self')})"
        for name, hook in HOOKS.items()
    ]
    assert [heading for heading in headings(ALL) if heading.startswith("medperf_")] == exact


@pytest.mark.parametrize("name", HOOKS)
def test_the_example_of_each_hook_is_the_one_that_is_run(name: str) -> None:
    examples = [block.text.strip() for block in blocks(ALL, "python")]
    assert example_of(HOOKS[name]).strip() in examples


def test_every_field_of_descriptors_is_listed() -> None:
    kinds = [kind for kind in SEAM_HOOKS if issubclass(kind, descriptors.Descriptor)]
    assert {row[0] for row in rows(ALL, "field")} == {field.name for kind in kinds for field in attrs.fields(kind)}
    assert {kind.API for kind in kinds} == {1}
    assert hookspecs.PROJECT == "medperf"
