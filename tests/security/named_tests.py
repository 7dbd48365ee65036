"""Which tests there are in the checkout, by name, without importing them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
KIT = "medperf_core/plugin/testing"
FOLDERS = ("tests", "plugins/*/tests", "examples/tests")


@cache
def tests_of(path: str) -> frozenset[str]:
    """Names of the test functions in a file, also of those in classes or inherited from the conformance kit; empty
    if there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inherited = (kit().get(base, frozenset()) for each in classes(tree) for base in bases(each))
    return functions(tree).union(*inherited)


def functions(tree: ast.AST) -> frozenset[str]:
    """Names of the test functions in a piece of a program."""
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def classes(tree: ast.AST) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def bases(each: ast.ClassDef) -> list[str]:
    return [base.id for base in each.bases if isinstance(base, ast.Name)]


@cache
def kit() -> dict[str, frozenset[str]]:
    """The tests of each class of the conformance kit, by the class's name."""
    found = [
        each for file in (ROOT / KIT).glob("*.py") for each in classes(ast.parse(file.read_text(encoding="utf-8")))
    ]
    own = {each.name: functions(each) for each in found}
    return {each.name: own[each.name].union(*(own.get(base, frozenset()) for base in bases(each))) for each in found}


def exists(test: str) -> bool:
    """Whether ``path/of/test_file.py::test_name`` names a test."""
    path, _, name = test.partition("::")
    return name in tests_of(path)


@cache
def all_tests() -> frozenset[str]:
    """Every test as ``path::name``."""
    files = {file for folder in FOLDERS for place in ROOT.glob(folder) for file in place.rglob("test_*.py")}
    paths = [str(file.relative_to(ROOT)) for file in files]
    return frozenset(f"{path}::{name}" for path in paths for name in tests_of(path))
