"""The examples of the page on the kits are run as they stand, against backends that stand in for an author's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medperf_core.plugin.storage import StoragePromise

from .pages import DOCS, blocks, rows

PAGE = DOCS / "plugins" / "conformance-other.md"
FIRST = DOCS / "plugins" / "first-plugin.md"
STANDING_IN = {
    "my_package/__init__.py": "",
    "my_package/plugin.py": (
        "from medperf_core.builtin.local import medperf_executors\n"
        "from medperf_core.builtin.mlcube import medperf_packagers\n"
    ),
    "my_package/testing.py": """
from medperf_core.entities import User
from medperf_core.plugin import BackendContext
from medperf_server.embedded import EmbeddedClient

def start_server(folder, users):
    address = f"embedded:{folder / 'registry.db'}"
    for name in users:
        if name != "admin":
            client_of(address, "admin").add_user(User(username=name))
    return address

def client_of(server, name):
    known = {"username": name} if name else None
    return EmbeddedClient(server, BackendContext(None, None, credentials=lambda address: known))
""",
}
SOME = "descriptor or stranger or body or outcome or good or come or cancel or nonsense or not_promised or addresses"
"""Of the long kits a part is enough here; the project's own backends run all of them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An author's project: the examples as test files, and the modules that they name."""
    folder = tmp_path_factory.mktemp("author")
    files = {**STANDING_IN, "medperf_share.py": blocks(FIRST, "python")[0].text}
    for name, block in zip(("share", "packager", "server", "executor"), blocks(PAGE, "python"), strict=True):
        files[f"test_{name}.py"] = block.text
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(("name", "chosen"), [("share", ""), ("packager", SOME), ("server", SOME), ("executor", SOME)])
def test_an_example_runs_as_it_stands(name: str, chosen: str, folder: Path) -> None:
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("MEDPERF_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-k", chosen, f"test_{name}.py"],
        cwd=folder,
        env={**variables, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr
    if name == "share":
        assert "NotPromised: share does not promise to reach files by network" in done.stdout


def test_the_table_of_promises_is_whole() -> None:
    assert {row[0] for row in rows(PAGE, "promise")} == {promise.name for promise in StoragePromise}
