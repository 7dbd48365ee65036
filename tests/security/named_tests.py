"""Which tests there are in the checkout, by name, without importing them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("tests", "plugins/*/tests", "examples/tests")


@cache
def tests_of(path: str) -> frozenset[str]:
    """Names of the test functions in a file, also of those in classes; empty if there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


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
