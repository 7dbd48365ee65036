"""The private copy of a source tree: of the files that were looked at, whoever changes the tree meanwhile."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from medperf_core.errors import InvalidEntityError
from medperf_core.plugin import BackendContext, build_context
from medperf_core.plugin.digest import TreeEntry


@pytest.mark.parametrize("kind", ["link", "pipe", "nothing"])
def test_what_takes_the_place_of_a_file_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A link to a file of root's would be copied, and the permissions of that file changed."""
    tree, victim = tmp_path / "tree", tmp_path / "victim"
    tree.mkdir()
    file = tree / "file"
    file.touch()
    victim.write_text("secret")
    victim.chmod(0o600)
    real = build_context.tree_entries

    def swapped(root: Path, ignored: frozenset[str]) -> list[TreeEntry]:
        entries = real(root, ignored)
        file.unlink()
        if kind == "link":
            file.symlink_to(victim)
        elif kind == "pipe":
            os.mkfifo(file)
        return entries

    monkeypatch.setattr(build_context, "tree_entries", swapped)
    context = BackendContext(tmp_path / "cache", tmp_path / "temp")
    with pytest.raises(InvalidEntityError), build_context.private_copy(tree, context):
        pass
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600
    assert list((tmp_path / "temp").iterdir()) == []


def test_files_are_copied_with_their_executable_bit_and_links_as_links(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "tool").write_text("tool")
    (tree / "sub" / "tool").chmod(0o700)
    (tree / "link").symlink_to("sub/tool")
    with build_context.private_copy(tree, BackendContext(tmp_path / "cache", tmp_path / "temp")) as copy:
        assert (copy / "sub" / "tool").read_text() == "tool"
        assert stat.S_IMODE((copy / "sub" / "tool").stat().st_mode) == 0o755
        assert (copy / "link").readlink() == Path("sub/tool")
