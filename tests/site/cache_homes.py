"""A home whose cache has something of every kind, for tests of moving and freeing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from medperf_core import Site
from medperf_core.plugin.digest import tree_digest
from medperf_core.plugin.kept import keeping
from medperf_core.site.archive import pack_tree
from medperf_core.site.home import Home

BACKENDS = ("other",)
"""A backend with a folder that says nothing of itself."""
CONTENTS = (b"one", b"two" * 1000, b"three" * 100_000)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(site: Site, content: bytes) -> str:
    temporary = site.cache.temporary()
    temporary.write_bytes(content)
    site.cache.add(sha256(content), temporary)
    return sha256(content)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose cache has files, a tree, a kept step, a backend's copy, and a link from one part to another."""
    with Site.open(tmp_path / "home") as site:
        for content in CONTENTS:
            put(site, content)
        source = tmp_path / "source"
        (source / "sub").mkdir(parents=True)
        (source / "sub" / "file.txt").write_text("text")
        (source / "link").symlink_to("sub/file.txt")
        archive = site.cache.temporary()
        packed = pack_tree(source, archive)
        site.cache.add(packed.sha256, archive)
        site.cache.tree(packed.sha256)
        step = site.cache_dir / "steps" / ("ab" * 32)
        step.mkdir(parents=True)
        (step / "step.json").write_text("{}")
        with keeping(site.cache_dir / "process"):
            (site.cache_dir / "process" / ("cd" * 32)).mkdir()
        link = site.cache_dir / "other" / "image.sif"
        link.parent.mkdir()
        link.symlink_to(site.cache.file(sha256(CONTENTS[0])) or "")
        return site.home


def state(home: Home) -> dict[str, str]:
    """Everything that the cache is good for."""
    with Site.open(home.path) as site:
        assert site.cache.verify() == []
        found = {f"{entry.kind} {entry.sha256}": str(entry.size) for entry in site.cache.entries()}
        found |= {content[:5].decode(): str(site.cache.file(sha256(content)) is not None) for content in CONTENTS}
        found |= {entry.kind: tree_digest(entry.path) for entry in site.cache.entries() if entry.kind == "tree"}
        found["link"] = (site.cache_dir / "other" / "image.sif").read_text()
        return found


def age(path: Path, days: float) -> None:
    then = path.stat().st_mtime - days * 24 * 3600
    os.utime(path, (then, then))


def age_file(home: Home, content: bytes, days: float) -> None:
    name = sha256(content)
    age(home.cache_dir / "files" / "files" / name[:2] / f"{name}.json", days)
