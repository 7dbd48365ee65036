"""Every fuzz target holds its promises on its seeds and on what is near them; `python -m fuzz` goes on from there."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from fuzz.guard import Guard
from fuzz.target import Target
from fuzz.targets import MODULES, NAMES, load

from .named_tests import ROOT

ROUNDS = 150


def near(data: bytes, target: Target, chance: random.Random) -> bytes:
    """The data with a few changes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(changed))
        word = chance.choice(target.words).encode("utf-8", "surrogateescape") if target.words else b""
        match chance.randint(0, 3):
            case 0:
                changed[at:at] = word or bytes([chance.randrange(256)])
            case 1:
                changed[at : at + chance.randint(1, 9)] = b""
            case 2:
                changed[at : at + len(word)] = word
            case _:
                changed[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(changed[: target.longest])


@pytest.mark.parametrize("name", NAMES)
def test_target(name: str, tmp_path: Path) -> None:
    target = load(name)
    (tmp_path / "folder").mkdir()
    guard = Guard(target, tmp_path / "folder", tmp_path / "findings")
    chance = random.Random(name)
    seeds = list(target.seeds())
    for data in [*seeds, *(near(chance.choice(seeds), target, chance) for _ in range(ROUNDS))]:
        guard(data)
    found = [path.read_text()[-1500:] for path in sorted((tmp_path / "findings").glob("*.txt"))]
    assert not guard.counts, "\n".join(found)


def test_a_guard_finds_what_it_is_for(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    def run(data: bytes, folder: Path) -> None:
        match data:
            case b"error":
                raise KeyError("x")
            case b"write":
                (tmp_path / "elsewhere").write_text("x")
            case b"swallowed":
                try:
                    (tmp_path / "elsewhere").mkdir()
                except BaseException:
                    return
            case b"link":
                (folder / "link").symlink_to(tmp_path)
                (folder / "link" / "through").write_text("x")
            case b"start":
                import subprocess

                subprocess.run(["true"], check=True)
            case b"connect":
                import socket

                socket.create_connection(("127.0.0.1", 9), 1)
            case _:
                (folder / "fine").write_text("x")

    guard = Guard(Target("test", run, lambda: ()), tmp_path / "folder", tmp_path / "findings")
    guard(b"fine")
    assert guard.counts == {}
    for data in (b"error", b"write", b"swallowed", b"link", b"start", b"connect"):
        before = dict(guard.counts)
        guard(data)
        assert guard.counts != before, data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["findings", "folder"]


def test_the_page_lists_all_targets() -> None:
    page = (ROOT / "fuzz" / "README.md").read_text(encoding="utf-8").partition("\n## ")[0]
    assert sorted(re.findall(r"(?m)^\| `([a-z-]+)` \|", page)) == sorted(NAMES)
    assert sum(map(len, MODULES.values())) == len(set(NAMES))
