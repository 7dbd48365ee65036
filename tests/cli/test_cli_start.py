"""What a start imports, and that help knows its commands without importing them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import click
import pytest
import yaml

from medperf_core.cli.root import TABLE, make_root

from .conftest import Medperf, Process

HEAVY = {"docker", "sqlalchemy", "requests", "rich", "cattrs", "psycopg", "boto3"}


def imported(environment: Mapping[str, str], *words: str) -> set[str]:
    """All modules that a command line has imported when it ends."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stderr))\n"
        "from medperf_core.cli.main import main\n"
        f"main({list(words)!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("MODULES ")[2].split())


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["plugin", "ls"], ["plugin", "ls", "--format", "json"]])
def test_start_imports_nothing_heavy(environment: dict[str, str], words: list[str]) -> None:
    assert not HEAVY & imported(environment, *words)


def test_start_stays_light_when_there_is_a_configuration(environment: dict[str, str], home: Path) -> None:
    home.mkdir()
    (home / "version").write_text("1\n")
    (home / "config.yaml").write_text(
        yaml.safe_dump({"active": "mine", "profiles": {"mine": {"blocked_plugins": ["some-plugin"]}}})
    )
    assert not HEAVY & imported(environment, "--help")
    assert not HEAVY & imported(environment, "plugin", "ls")


def test_version_imports_not_even_click(environment: dict[str, str], process: Process) -> None:
    modules = imported(environment, "--version")
    assert not {"click", "attrs", "attr", "yaml", "pluggy"} & modules
    assert process("--version").stdout == process("--quiet", "--version").stdout == "medperf 0.1.0\n"


def test_one_command_imports_only_its_own_module(environment: dict[str, str]) -> None:
    modules = imported(environment, "plugin", "ls")
    commands = {name.rpartition(".")[2] for name in modules if name.startswith("medperf_core.cli.commands.")}
    assert commands == {"plugin"}


def test_help_does_not_make_a_home(process: Process, home: Path) -> None:
    assert process("--help").returncode == 0
    assert process("plugin", "ls").returncode == 0
    assert not home.exists()


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_table_of_commands_is_true(name: str) -> None:
    entry = TABLE[name]
    command = getattr(importlib.import_module(entry.module), entry.attribute)
    assert isinstance(command, click.Command)
    if not entry.summary.startswith("Another name for"):
        assert (command.help or "").split("\n")[0] == entry.summary


def test_help_lists_every_command_with_its_line(medperf: Medperf) -> None:
    shown = " ".join(medperf("--help", COLUMNS="200").stdout.split())
    for name, entry in TABLE.items():
        assert f"{name} {entry.summary}" in shown


def test_every_command_has_help() -> None:
    root = make_root()

    def walk(command: click.Command, path: str) -> None:
        assert command.help, path
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden:
                assert param.help, f"{path} {param.opts}"
        if isinstance(command, click.Group):
            ctx = click.Context(command)
            for name in command.list_commands(ctx):
                child = command.get_command(ctx, name)
                assert child is not None
                walk(child, f"{path} {name}")

    walk(root, "medperf")


def test_every_list_and_view_has_formats_and_every_sender_has_yes() -> None:
    root = make_root()
    senders = {"submit", "associate", "approve", "reject"}
    found = set()

    def walk(command: click.Command, path: tuple[str, ...]) -> None:
        options = {option for param in command.params for option in param.opts}
        if path and path[-1] in ("ls", "view"):
            assert "--format" in options, path
        if path and path[-1] in senders:
            assert {"--yes", "-y", "--allow", "--offline"} <= options, path
            found.add(path[-1])
        if isinstance(command, click.Group):
            ctx = click.Context(command)
            for name in command.list_commands(ctx):
                walk(command.get_command(ctx, name) or command, (*path, name))

    walk(root, ())
    assert found == senders


def test_container_is_the_same_as_mlcube(medperf: Medperf) -> None:
    one, other = medperf("mlcube", "--help"), medperf("container", "--help")
    assert one.stdout.replace("medperf mlcube", "") == other.stdout.replace("medperf container", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_this_program(process: Process, shell: str) -> None:
    done = process("completion", shell)
    assert done.returncode == 0
    assert "_MEDPERF_COMPLETE" in done.stdout


def test_the_shell_gets_the_commands_to_complete(process: Process) -> None:
    done = process(_MEDPERF_COMPLETE="bash_complete", COMP_WORDS="medperf mlcube sub", COMP_CWORD="2")
    assert done.stdout == "plain,submit\n"
    done = process(_MEDPERF_COMPLETE="bash_complete", COMP_WORDS="medperf mlc", COMP_CWORD="1")
    assert done.stdout == "plain,mlcube\n"


def complete(process: Process, *words: str, **more: str) -> list[str]:
    """What bash is offered for the last of the words."""
    done = process(
        _MEDPERF_COMPLETE="bash_complete", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1), **more
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


PROFILES = yaml.safe_dump({"active": "mine", "profiles": {"mine": {}, "clinic": {}}})


@pytest.mark.parametrize(
    "words",
    [
        ("profile", "activate"),
        ("profile", "delete"),
        ("profile", "view"),
        ("--profile",),
        ("profile", "create", "--like"),
    ],
)
def test_names_of_profiles_are_completed(process: Process, home: Path, words: tuple[str, ...]) -> None:
    assert complete(process, "medperf", *words, "d") == ["default"]
    assert not home.exists()
    home.mkdir()
    (home / "config.yaml").write_text(PROFILES)
    assert complete(process, "medperf", *words, "''") == ["clinic", "default", "mine"]
    assert complete(process, "medperf", *words, "cl") == ["clinic"]
    assert complete(process, "medperf", f"--home={home}", *words, "m", MEDPERF_HOME="/nowhere") == ["mine"]


@pytest.mark.parametrize("words", [(), ("profile", "set"), ("profile", "create", "x")])
def test_names_of_backends_are_completed(process: Process, words: tuple[str, ...]) -> None:
    assert complete(process, "medperf", *words, "--platform", "pro") == ["process"]
    assert complete(process, "medperf", *words, "--executor", "''") == ["local"]


def test_completion_imports_nothing_heavy_and_not_all_commands(environment: dict[str, str]) -> None:
    environment |= {"_MEDPERF_COMPLETE": "bash_complete", "COMP_WORDS": "medperf ''", "COMP_CWORD": "1"}
    modules = imported(environment)
    assert not HEAVY & modules
    assert not [name for name in modules if name.startswith("medperf_core.cli.commands.")]


def test_the_program_runs_from_any_folder(environment: dict[str, str], tmp_path: Path) -> None:
    elsewhere = {
        **environment,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path.cwd()), environment.get("PYTHONPATH", "")])),
    }
    done = subprocess.run(
        [sys.executable, "-m", "medperf_core.cli", "profile", "ls", "--format", "json"],
        cwd=tmp_path,
        env=elsewhere,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
