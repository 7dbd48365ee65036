"""The page of settings says all that the code has: options, variables, keys and defaults."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

import attrs
import click
import yaml

from medperf_core.cli.global_options import options
from medperf_core.entities.codec import from_data
from medperf_core.plugin.manager import PluginManager
from medperf_core.plugin.settings import SettingField, fields_of
from medperf_core.site.options import SiteOptions, merge
from medperf_core.site.profiles import Profile, _Config

from .pages import DOCS, ROOT, blocks, prose, rows

PAGE = DOCS / "reference" / "settings.md"
FIRST_PARTY = {
    "medperf-core",
    "medperf-docker",
    "medperf-singularity",
    "medperf-storage",
    "medperf-server",
    "medperf-examples",
}


def descriptors() -> list[Any]:
    manager = PluginManager.discover()
    strangers = {record.distribution for record in manager.records()} - FIRST_PARTY
    return PluginManager.discover(strangers).descriptors()


def cells(field: SettingField) -> tuple[str, ...]:
    default = "none" if field.default in ("", (), None) else str(field.default)
    return field.option, field.variable, f"{field.backend}.{field.name}", default


def test_every_setting_of_every_backend_is_listed_and_no_other() -> None:
    found = [field for item in descriptors() for field in fields_of(item.name, item.settings)]
    documented = {tuple(row[:4]) for row in rows(PAGE, "option") if len(row) == 5}
    assert documented == {cells(field) for field in found}


def test_backends_without_settings_are_named() -> None:
    names = sorted(item.name for item in descriptors() if not fields_of(item.name, item.settings))
    sentence = next(line for line in prose(PAGE).splitlines() if line.endswith("have no settings."))
    assert re.findall("`([^`]+)`", sentence) == names


def test_every_key_of_a_profile_is_listed_with_its_default() -> None:
    table = {row[0]: row[1] for row in rows(PAGE, "key")}
    fields = attrs.fields_dict(Profile)
    assert list(table) == list(fields)
    plain = {name: table[name] for name in ("platform", "executor", "loglevel", "credentials")}
    assert plain == {name: getattr(Profile(), name) for name in plain}
    assert int(table["processes"]) == merge(Profile(), SiteOptions(), {}).resources.processes


def test_every_global_option_is_listed() -> None:
    shown = {item.opts[0] for item in options() if isinstance(item, click.Option) and not item.hidden}
    documented = [row for row in rows(PAGE, "option") if len(row) == 4]
    assert {row[0] for row in documented} == shown
    assert {row[2] for row in documented} - {"-"} <= set(attrs.fields_dict(Profile))


def test_the_variables_are_read() -> None:
    values = {
        "MEDPERF_PLATFORM": "process",
        "MEDPERF_EXECUTOR": "other",
        "MEDPERF_ALLOW": "plain-http,no-isolation",
        "MEDPERF_OFFLINE": "yes",
        "MEDPERF_GPUS": "all",
        "MEDPERF_SHM_SIZE": "2g",
        "MEDPERF_MEMORY": "8g",
        "MEDPERF_CPUS": "1.5",
        "MEDPERF_PROCESSES": "7",
        "MEDPERF_TIME_LIMITS": "infer=3600,*=5",
    }
    plain = merge(Profile(), SiteOptions(), {})
    for name, value in values.items():
        assert merge(Profile(), SiteOptions(), {name: value}) != plain, name
    documented = set(re.findall(r"MEDPERF_[A-Z0-9_]+", PAGE.read_text()))
    of_backends = {field.variable for item in descriptors() for field in fields_of(item.name, item.settings)}
    assert documented == {*values, *of_backends, "MEDPERF_HOME", "MEDPERF_PROFILE", "MEDPERF_BLOCK_PLUGINS"}


def test_no_variable_of_the_code_is_left_out() -> None:
    known = set(re.findall(r"MEDPERF_[A-Z0-9_]+", PAGE.read_text())) | {"MEDPERF_TASK_ID"}  # marks processes, not read
    folders = [ROOT / "medperf_core", *ROOT.glob("plugins/*/src"), ROOT / "examples" / "src"]
    named = {
        name
        for folder in folders
        for file in folder.rglob("*.py")
        for text in texts(ast.parse(file.read_text()))
        for name in re.findall(r"\bMEDPERF_[A-Z0-9_]*[A-Z]\b", text)
    }
    assert {name for name in named if not name.startswith("MEDPERF_TEST_")} <= known


def texts(tree: ast.AST) -> Iterator[str]:
    """The texts of a program, less its docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_the_example_of_a_configuration_is_one() -> None:
    (example,) = blocks(PAGE, "yaml")
    config = from_data(yaml.safe_load(example.text), _Config)
    assert config.active in config.profiles
