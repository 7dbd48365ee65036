"""What installed plugins add to the command line, with real distributions on the path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from .conftest import Process

PLUGIN = """
import attrs
import click
from medperf_core.plugin import RunnerPlugin, hookimpl, setting

@attrs.frozen
class Settings:
    host: str | None = setting(None, "Address of the engine.")
    retries: int = setting(3, "How often to try.")
    tls: bool = setting(True, "Use TLS.")
    labels: tuple[str, ...] = setting((), "Labels.")
    password: str | None = setting(None, "A secret.", secret=True)

@hookimpl
def medperf_runners():
    yield RunnerPlugin(name="acme", summary="an engine", api=1, settings=Settings, make=None)

@hookimpl
def medperf_commands(group):
    @group.command("hello")
    @click.pass_obj
    def hello(session):
        "Say hello."
        click.echo(f"hello {sorted(session.settings.get('acme', {}).items())}")
"""
THIEF = """
import click
from medperf_core.plugin import hookimpl

@hookimpl
def medperf_commands(group):
    @group.command("mlcube")
    def mine():
        "Mine."

    @group.command("other")
    def other():
        "Other."
"""
BROKEN = "raise RuntimeError('out of order')\n"


@pytest.fixture
def install(tmp_path: Path, environment: dict[str, str]) -> Callable[[str, str], None]:
    """Installs a distribution with one plugin module in a folder on the path of the processes to come."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    environment["PYTHONPATH"] = f"{folder}:{environment.get('PYTHONPATH', '')}".rstrip(":")

    def add(name: str, code: str) -> None:
        (folder / f"{name}.py").write_text(code)
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[medperf]\n{name} = {name}\n")

    return add


@pytest.fixture
def run(install: Callable[[str, str], None], process: Process, environment: dict[str, str]) -> Process:
    """Runs a command line with the path as it is then."""
    return lambda *words, **more: process(*words, PYTHONPATH=environment["PYTHONPATH"], **more)


def test_settings_become_options_before_the_command(install: Callable[[str, str], None], run: Process) -> None:
    install("acme", PLUGIN)
    done = run(
        "--acme_host", "h", "--acme-no-tls", "--acme-labels", "a", "--acme-labels=b", "--acme-retries", "7", "hello"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "hello [('host', 'h'), ('labels', ('a', 'b')), ('retries', 7), ('tls', False)]\n"
    assert run("hello").stdout == "hello []\n"


def test_settings_are_in_the_help_with_their_defaults_and_without_secrets(
    install: Callable[[str, str], None], run: Process
) -> None:
    install("acme", PLUGIN)
    shown = " ".join(run("--help").stdout.split())
    assert "Options of plugins: --acme-host VALUE Address of the engine." in shown
    assert "How often to try. [default: 3]" in shown
    assert "--acme-tls / --acme-no-tls" in shown
    assert "password" not in shown
    assert "hello Say hello." in shown
    assert run("--acme-password", "x", "hello").returncode == 2


def test_a_value_of_the_wrong_type_is_wrong_usage(install: Callable[[str, str], None], run: Process) -> None:
    install("acme", PLUGIN)
    done = run("--acme-retries", "often", "hello")
    assert done.returncode == 2
    assert "--acme-retries" in done.stderr


def test_a_blocked_plugin_adds_nothing(install: Callable[[str, str], None], run: Process, home: Path) -> None:
    install("acme", PLUGIN)
    home.mkdir()
    (home / "version").write_text("1\n")
    (home / "config.yaml").write_text(yaml.safe_dump({"profiles": {"closed": {"blocked_plugins": ["acme"]}}}))
    assert run("hello").returncode == 0
    assert run("--profile", "closed", "hello").returncode == 2
    assert run("--profile", "closed", "--acme-host", "h", "doctor").returncode == 2
    assert "acme" not in run("--profile", "closed", "--help").stdout
    assert "acme" not in run("--help", "--profile=closed").stdout
    assert run("hello", MEDPERF_PROFILE="closed").returncode == 2
    assert run("--home", str(home), "--profile=closed", "--acme-host", "h", "doctor", MEDPERF_HOME="").returncode == 2


def test_a_configuration_that_nobody_can_read_loads_no_plugin(
    install: Callable[[str, str], None], run: Process, home: Path
) -> None:
    install("acme", PLUGIN)
    home.mkdir()
    (home / "version").write_text("1\n")
    (home / "config.yaml").write_text("profiles: [")
    assert run("hello").returncode == 3
    shown = run("--help")
    assert shown.returncode == 0
    assert "acme" not in shown.stdout
    assert "config.yaml" in shown.stderr


def test_a_command_that_is_there_is_not_replaced(install: Callable[[str, str], None], run: Process) -> None:
    install("thief", THIEF)
    shown = run("--help").stdout
    assert "Mine." not in shown and "Other." not in shown
    assert "Package, try, submit" in shown
    assert run("no-such-command").returncode == 2


def test_commands_and_options_of_plugins_are_completed(
    install: Callable[[str, str], None], run: Process, home: Path
) -> None:
    def complete(*words: str) -> list[str]:
        done = run(_MEDPERF_COMPLETE="bash_complete", COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1))
        assert (done.returncode, done.stderr) == (0, "")
        return [line.partition(",")[2] for line in done.stdout.splitlines() if line]

    install("acme", PLUGIN)
    assert complete("medperf", "hel") == ["hello"]
    assert complete("medperf", "--acme-h") == ["--acme-host"]
    assert complete("medperf", "--acme-host", "h", "hel") == ["hello"]
    assert complete("medperf", "--acme-host", "h", "mlcube", "subm") == ["submit"]
    assert complete("medperf", "--platform", "ac") == ["acme"]
    home.mkdir()
    (home / "config.yaml").write_text("profiles: [")
    assert complete("medperf", "hel") == []
    assert complete("medperf", "mlc") == ["mlcube"]


def test_a_broken_plugin_breaks_nothing_and_is_listed(install: Callable[[str, str], None], run: Process) -> None:
    install("broken", BROKEN)
    install("acme", PLUGIN)
    assert run("hello").returncode == 0
    assert run("--help").returncode == 0
    listed = yaml.safe_load(run("plugin", "ls", "--format", "yaml").stdout)
    [broken] = [item for item in listed if item["name"] == "broken"]
    assert (broken["status"], broken["reason"]) == ("failed", "RuntimeError: out of order")
    [acme] = [item for item in listed if item["name"] == "acme"]
    assert acme["provides"] == ["runner acme", "hook medperf_commands"]
