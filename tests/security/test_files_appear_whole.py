"""What this program keeps is written by ``site/atomic.py``; a place that writes in another way says why it may."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from .named_tests import ROOT

CORE = ROOT / "medperf_core"
FOLDERS = ("site", "journeys", "cli")
WRITERS = {"write_text", "write_bytes", "copy", "copy2", "copyfile", "copytree", "mkstemp", "NamedTemporaryFile"}

MAY = {
    ("site/archive.py", "_write"): "into the folder that unpack() gives its name at the end",
    ("site/atomic.py", "write_atomically"): "the one that the others use",
    ("site/audit.py", "_write"): "one line more, below a lock; what a kill left of it is found and taken away",
    ("site/logs.py", "_open"): "a command's log, line by line",
    ("site/sink.py", "__init__"): "into the work folder; the cache gives it its name once it is verified",
    ("site/cache_move.py", "_copy_file"): "into a cache that is marked as not whole until all of it was read back",
    ("site/cache_users.py", "_registered"): "a file to lock, without content",
    ("site/cache_users.py", "_locked"): "a file to lock, without content",
    ("site/cache_users.py", "_running_since"): "a file to lock, without content",
    ("site/bundle_part.py", "unfinished"): "the part file, which gets the bundle's name when it is complete",
    ("site/bundle_part.py", "_opened"): "the same",
    ("site/bundle_part.py", "give_name"): "an empty file that takes the bundle's name where there are no hard links",
    ("site/bundle_file.py", "keep"): "no file: the copy of a hash",
    (
        "site/bundle_take.py",
        "_write",
    ): "into an interrupted file of the cache, which gives it its name once it is verified",
    ("cli/commands/site.py", "key"): "a public key, to a new file that the person named; it can be written again",
    ("site/cache.py", "_record"): "what a file looks like: without it, or with half of it, it is hashed again",
    ("site/hold.py", "held"): "a lock file, which has no content",
    ("site/home.py", "_copy"): "the backup before a migration",
    ("site/home.py", "_restore"): "back from that backup",
    ("cli/failures.py", "_discard_output"): "to /dev/null",
    ("journeys/containers.py", "write_parameters"): "into the work folder, for one task",
    ("journeys/create.py", "_copy"): "into a folder that is renamed at the end",
    ("journeys/create.py", "_write"): "into a folder that is renamed at the end",
    ("journeys/package.py", "_copy"): "into a folder that is renamed at the end",
    ("journeys/package.py", "package"): "into a folder that is renamed at the end",
    ("journeys/publish.py", "_saved"): "into the work folder, from where the cache takes it",
    ("journeys/steps.py", "_done"): "into the work folder, which is moved when the step is complete",
}


def opens_to_write(call: ast.Call, name: str) -> bool:
    words = [part.value for part in ast.walk(call) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    flags = {part.attr for part in ast.walk(call) if isinstance(part, ast.Attribute)}
    modes = [word for word in words if len(word) <= 3 and set(word) <= set("rwaxbt+") and set(word) & set("wax+")]
    return name in ("open", "fdopen") and bool(modes or flags & {"O_WRONLY", "O_RDWR", "O_CREAT"})


def writers(file: Path) -> Iterator[str]:
    """Names of the functions of a file that write files; ``""`` for code outside of functions."""

    def look(node: ast.AST, function: str) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in WRITERS or opens_to_write(node, name):
                yield function
        for child in ast.iter_child_nodes(node):
            yield from look(child, function)

    return look(ast.parse(file.read_text(encoding="utf-8")), "")


def test_every_place_that_writes_a_file_is_atomic_or_known() -> None:
    found = {
        (str(file.relative_to(CORE)), function)
        for folder in FOLDERS
        for file in (CORE / folder).rglob("*.py")
        for function in writers(file)
    }
    assert found - set(MAY) == set(), "use write_atomically or new_folder of site/atomic.py"
    assert set(MAY) - found == set(), "these write nothing any more: take them out of the list"
