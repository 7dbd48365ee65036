"""Packing is the same everywhere; unpacking takes nothing but plain files, folders and inner links."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import stat
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medperf_core.errors import InvalidEntityError, TransferError
from medperf_core.plugin.digest import IGNORED_IN_SOURCES, tree_digest
from medperf_core.site import archive as archive_module
from medperf_core.site.archive import pack_tree, unpack
from medperf_core.site.tarstream import UnpackLimits

MIB = 1 << 20


def entry(name: str, content: bytes = b"", **fields: object) -> bytes:
    """One member as it stands in a tar: header and padded content."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + content + bytes(-len(content) % 512)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    return entry(name, type=kind, linkname=target)


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return entry("PaxHeaders/x", records, type=kind)


def record(key: str, value: bytes) -> bytes:
    rest = b" " + key.encode() + b"=" + value + b"\n"
    size = len(rest)
    while len(str(size)) + len(rest) != size:
        size = len(str(size)) + len(rest)
    return str(size).encode() + rest


END = bytes(1024)
FILE = entry("a.txt", b"hello\n")
HUGE_HEADER = tarfile.TarInfo("PaxHeaders/x")
HUGE_HEADER.type, HUGE_HEADER.size = tarfile.XHDTYPE, 1 << 33

HOSTILE: dict[str, tuple[bytes, str]] = {
    "parent": (entry("../out.txt", b"x"), "'../out.txt', which leads out"),
    "parent in the middle": (entry("a/../../out.txt", b"x"), "leads out"),
    "absolute": (entry("/etc/cron.d/x", b"x"), "absolute path"),
    "absolute by pax": (pax(record("path", b"/etc/x")) + entry("x", b"x"), "absolute path"),
    "backslash": (entry("..\\..\\out.txt", b"x"), "backslash"),
    "link out": (link("l", "../out"), "'l' to '../out', which is outside"),
    "absolute link": (link("l", "/etc/passwd"), "'/etc/passwd', which is outside"),
    "link without a target": (link("l", ""), "empty"),
    "through a link to a folder": (
        entry("d", type=tarfile.DIRTYPE) + link("l", "d") + entry("l/x", b"x"),
        "'l' as a link and as a folder",
    ),
    "write through a link": (link("l", "other") + entry("l", b"x"), "'l' twice"),
    "links that lead out together": (
        entry("a/b/x", b"x") + link("a/b/up", "../..") + link("out", "a/b/up/../../etc/passwd"),
        "'out'",
    ),
    "link that leads out by its words": (
        entry("d/e/x", b"x") + link("x", "d/e") + link("l", "x/../../first.txt"),
        "'l' to 'x/../../first.txt'",
    ),
    "link to itself": (link("l", "l"), "'l' to 'l', which leads in a circle"),
    "links in a circle": (link("a", "b") + link("b", "c") + link("c", "a"), "which leads in a circle"),
    "folder in a circle": (link("d/x", "../d/x/y"), "'d/x' to '../d/x/y', which leads in a circle"),
    "endless chain of links": (b"".join(link(f"l{n}", f"l{n + 1}") for n in range(3000)), "through many links"),
    "hard link out": (link("h", "../secret", tarfile.LNKTYPE), "leads out"),
    "absolute hard link": (link("h", "/etc/passwd", tarfile.LNKTYPE), "absolute path"),
    "hard link to nothing": (link("h", "b.txt", tarfile.LNKTYPE), "no earlier file"),
    "hard link to a link": (link("s", "a.txt") + link("h", "s", tarfile.LNKTYPE), "no earlier file"),
    "character device": (entry("dev", type=tarfile.CHRTYPE, devmajor=1, devminor=3), "'dev', which is a device"),
    "block device": (entry("dev", type=tarfile.BLKTYPE), "a device"),
    "pipe": (entry("pipe", type=tarfile.FIFOTYPE), "a pipe"),
    "unknown kind": (entry("what", type=b"Z"), "unknown kind"),
    "setuid": (entry("su", b"x", mode=0o4755), "setuid"),
    "setgid": (entry("sg", b"x", mode=0o2755), "setgid"),
    "twice": (FILE + entry("a.txt", b"other"), "'a.txt' twice"),
    "twice in other words": (FILE + entry("./a.txt", b"other"), "'a.txt' twice"),
    "file and folder": (FILE + entry("a.txt/b", b"x"), "as a file and as a folder"),
    "not UTF-8": (entry("bad\udcff", b"x"), "not valid UTF-8"),
    "NUL": (pax(record("path", b"a\0b")) + entry("x", b"x"), "control characters"),
    "control characters": (entry("a\x1b[2Jb", b"x"), "control characters"),
    "line end": (entry("a\nb", b"x"), "control characters"),
    "name too long": (entry("n" * 256, b"x"), "named too long"),
    "path too long": (entry("/".join(["n" * 100] * 11), b"x"), "longer than 1024"),
    "too deep": (entry("/".join(["n"] * 65), b"x"), "nested too deep"),
    "old GNU sparse": (entry("sparse", type=tarfile.GNUTYPE_SPARSE), "'sparse' as a sparse file"),
    "PAX sparse 0.1": (
        pax(record("GNU.sparse.map", b"0,1") + record("GNU.sparse.size", b"9999999999")) + FILE,
        "sparse file",
    ),
    "PAX sparse 1.0": (pax(record("GNU.sparse.major", b"1") + record("GNU.sparse.minor", b"0")) + FILE, "sparse file"),
    "huge extended header": (HUGE_HEADER.tobuf(tarfile.GNU_FORMAT) + bytes(MIB), "extended headers"),
    "endless extended headers": (pax(record("comment", b"x")) * 100 + FILE, "extended headers"),
    "broken extended header": (pax(b"99 path=x\n") + FILE, "cannot be read"),
    "global rename": (pax(record("path", b"x"), tarfile.XGLTYPE) + FILE, "renames or resizes"),
    "size that is no number": (pax(record("size", b"-5")) + FILE, "no number"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_s1_hostile_archive_is_refused(name: str, tmp_path: Path) -> None:
    members, words = HOSTILE[name]
    archive, target = tmp_path / "hostile.tar", tmp_path / "inner" / "target"
    target.parent.mkdir()
    archive.write_bytes(entry("first.txt", b"x") + members + END)

    with pytest.raises(InvalidEntityError) as caught:
        unpack(archive, target)

    assert words in str(caught.value)
    assert str(archive) in str(caught.value)
    assert list(target.parent.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.tar", "inner"]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (UnpackLimits(entries=2), "'c' is one too many"),
        (UnpackLimits(bytes=2000), "more than 2000 bytes"),
    ],
)
def test_limits_hold(limits: UnpackLimits, words: str, tmp_path: Path) -> None:
    archive = tmp_path / "many.tar"
    archive.write_bytes(entry("a", b"x") + entry("b", b"x") + entry("c", b"x") + END)
    with pytest.raises(InvalidEntityError, match=words):
        unpack(archive, tmp_path / "target", limits)
    unpack(archive, tmp_path / "target")


def test_bomb_stops_before_it_fills_the_disk(tmp_path: Path) -> None:
    archive = tmp_path / "bomb.tar.gz"
    info = tarfile.TarInfo("zeros")
    info.size = 1 << 40
    with gzip.open(archive, "wb") as stream:
        stream.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(300):
            stream.write(bytes(MIB))
    tracemalloc.start()
    with pytest.raises(InvalidEntityError, match="times its own size"):
        unpack(archive, tmp_path / "target")
    assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    tracemalloc.stop()
    assert not (tmp_path / "target").exists()


def compress_xz(data: bytes) -> bytes:
    return lzma.compress(data[:700]) + bytes(8) + lzma.compress(data[700:])


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "xz in two streams": compress_xz,
    "gzip in two members": lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compression_is_told_by_content(compression: str, tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(3000)
    archive = tmp_path / "no-matter.zip"
    archive.write_bytes(COMPRESSIONS[compression](entry("n.bin", noise) + FILE + END))
    unpack(archive, tmp_path / "target")
    assert (tmp_path / "target" / "n.bin").read_bytes() == noise
    assert (tmp_path / "target" / "a.txt").read_bytes() == b"hello\n"


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_cut_is_noticed(compression: str, tmp_path: Path) -> None:
    whole = COMPRESSIONS[compression](entry("n.bin", random.Random(1).randbytes(600)) + FILE + bytes(512))
    archive = tmp_path / "cut.tar"
    for size in range(0, len(whole), 7):
        archive.write_bytes(whole[:size])
        if compression.endswith("members") and size == len(gzip.compress(b"")):
            continue
        with pytest.raises(InvalidEntityError, match=r"cut short|no tar"):
            unpack(archive, tmp_path / "target")


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "xz"])
def test_every_flipped_byte_of_the_data_is_noticed(compression: str, tmp_path: Path) -> None:
    whole = COMPRESSIONS[compression](entry("n.bin", random.Random(1).randbytes(600)) + END)
    archive = tmp_path / "flipped.tar"
    for position in range(12, len(whole), 11):
        archive.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        with pytest.raises(InvalidEntityError, match=r"damaged|cut short|no tar"):
            unpack(archive, tmp_path / "target")


@pytest.mark.parametrize("position", range(-8, 0))
def test_flipped_byte_of_the_check_sum_is_noticed(position: int, tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(entry("n.bin", random.Random(1).randbytes(600)) + END))
    whole[position] ^= 1
    (tmp_path / "flipped.tar.gz").write_bytes(whole)
    with pytest.raises(InvalidEntityError, match="damaged or cut short"):
        unpack(tmp_path / "flipped.tar.gz", tmp_path / "target")


def test_what_is_no_stream_after_the_first_is_noticed(tmp_path: Path) -> None:
    whole = gzip.compress(FILE + END)
    (tmp_path / "good.tgz").write_bytes(whole + bytes(600))
    unpack(tmp_path / "good.tgz", tmp_path / "good")
    (tmp_path / "bad.tgz").write_bytes(whole + bytes(600) + b"rubbish" * 10)
    with pytest.raises(InvalidEntityError, match="damaged or cut short"):
        unpack(tmp_path / "bad.tgz", tmp_path / "bad")


def test_unpacking_needs_little_memory(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "t.tgz", "wb", 1) as stream:
        info = tarfile.TarInfo("big")
        info.size = 48 * MIB
        stream.write(info.tobuf(tarfile.GNU_FORMAT))
        noise = random.Random(1).randbytes(MIB)
        for _ in range(48):
            stream.write(noise)
        stream.write(END)
    tracemalloc.start()
    unpack(tmp_path / "t.tgz", tmp_path / "target")
    assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    tracemalloc.stop()


def test_damaged_header_does_not_end_the_archive_silently(tmp_path: Path) -> None:
    second = bytearray(entry("b.txt", b"x"))
    second[0] ^= 1
    (tmp_path / "damaged.tar").write_bytes(FILE + second + END)
    with pytest.raises(InvalidEntityError, match=r"after 'a\.txt'"):
        unpack(tmp_path / "damaged.tar", tmp_path / "target")


def test_harmless_archive_of_another_program(tmp_path: Path) -> None:
    """GNU tar's long names, hard links, setgid folders, root entry and its own modes."""
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    long = "n" * 180 + ".txt"
    (source / "sub" / long).write_text("long")
    (source / "sub" / "ü.txt").write_text("umlaut")
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o500)
    os.link(source / "run.sh", source / "same.sh")
    (source / "sub" / "to-run").symlink_to("../run.sh")
    (source / "dangling").symlink_to("nowhere")
    (source / "sub").chmod(0o2775)
    for extra in ("._run.sh", "sub/._x"):
        (source / extra).write_text("metadata")
    (source / "__MACOSX").mkdir()
    (source / "__MACOSX" / "x").write_text("metadata")
    subprocess.run(["tar", "--format=gnu", "-czf", tmp_path / "gnu.tgz", "-C", source, "."], check=True)

    target = tmp_path / "target"
    unpack(tmp_path / "gnu.tgz", target)

    names = sorted(str(path.relative_to(target)) for path in target.rglob("*"))
    assert names == sorted(["dangling", "run.sh", "same.sh", "sub", f"sub/{long}", "sub/to-run", "sub/ü.txt"])
    assert (target / "sub" / "to-run").read_text() == "#!/bin/sh\n"
    assert stat.S_IMODE((target / "run.sh").stat().st_mode) == 0o755
    assert stat.S_IMODE((target / "sub" / long).stat().st_mode) == 0o644
    assert stat.S_IMODE((target / "sub").stat().st_mode) == stat.S_IMODE(target.stat().st_mode) == 0o755


def test_existing_target_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(FILE + END)
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        unpack(tmp_path / "a.tar", tmp_path / "target")
    assert (tmp_path / "target" / "mine").read_text() == "mine"


def test_missing_archive_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"none\.tar cannot be unpacked"):
        unpack(tmp_path / "none.tar", tmp_path / "target")


def test_packing_depends_on_content_only(tmp_path: Path) -> None:
    """Two trees made in another order, at other times, with other modes, give the same bytes."""
    names = ["z.txt", "a/b.txt", "a.txt", "a-b/c.txt", "ü/ä.txt", "deep/" * 30 + "x", "p" * 150]
    packed = []
    for number, order in enumerate((names, names[::-1])):
        root = tmp_path / f"tree{number}"
        for name in order:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name * 1000)
            path.chmod(0o640 if number else 0o604)
            os.utime(path, (1e9 * (number + 1), 1e9 * (number + 1)))
        (root / "z.txt").chmod(0o700 if number else 0o755)
        (root / "link").symlink_to("a/b.txt")
        (root / "empty" / str(number)).mkdir(parents=True)
        (root / ".git").mkdir()
        (root / ".git" / "HEAD").write_text(str(number))
        packed.append(pack_tree(root, tmp_path / f"name{number}.tar.gz", IGNORED_IN_SOURCES))
    first, second = ((tmp_path / f"name{number}.tar.gz").read_bytes() for number in (0, 1))
    assert first == second
    assert packed[0] == packed[1]
    assert packed[0].sha256 == hashlib.sha256(first).hexdigest()
    assert packed[0].size == len(first)
    assert packed[0].tar_sha256 == hashlib.sha256(gzip.decompress(first)).hexdigest()
    assert first[3:8] == bytes(5)  # no flags, so no name, and no time


def test_packing_does_not_depend_on_how_the_disk_hands_out_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """isal compresses the same bytes to others when they come in other pieces."""
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(3):
        (root / f"{number}.txt").write_bytes(random.Random(number).randbytes(600_000).hex().encode())
    whole = pack_tree(root, tmp_path / "whole.tar.gz")
    monkeypatch.setattr(archive_module, "_read", lambda entry, content, room: content.readinto(room[:70_001]))
    assert pack_tree(root, tmp_path / "pieces.tar.gz") == whole
    assert (tmp_path / "pieces.tar.gz").read_bytes() == (tmp_path / "whole.tar.gz").read_bytes()
    assert whole.tar_sha256 == hashlib.sha256(gzip.decompress((tmp_path / "whole.tar.gz").read_bytes())).hexdigest()


def test_packed_bytes_are_pinned(tmp_path: Path) -> None:
    """The tar of this little tree must be these bytes for ever: servers know archives by their hash."""
    (tmp_path / "t" / "sub").mkdir(parents=True)
    (tmp_path / "t" / "hello.txt").write_text("hello\n")
    (tmp_path / "t" / "sub" / "ü").write_text("")
    (tmp_path / "t" / "sub" / "ü").chmod(0o755)
    (tmp_path / "t" / "l").symlink_to("sub/ü")
    packed = pack_tree(tmp_path / "t", tmp_path / "t.tar.gz")
    assert packed.tar_sha256 == "0f5cd0905b587b3589fc0effd857884c3432bd0b1b70d44c912fe6faaaa131f5"


def test_other_programs_read_what_is_packed(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / ("ü" * 90)).write_bytes(random.Random(2).randbytes(2000))
    (root / "link").symlink_to("sub")
    pack_tree(root, tmp_path / "t.tar.gz")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xzf", tmp_path / "t.tar.gz", "-C", tmp_path / "out"], check=True)
    assert tree_digest(tmp_path / "out") == tree_digest(root)
    with tarfile.open(tmp_path / "t.tar.gz") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


def test_packing_needs_little_memory(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    noise = random.Random(1).randbytes(MIB)
    with (tmp_path / "t" / "big").open("wb") as stream:
        for _ in range(64):
            stream.write(noise)
    tracemalloc.start()
    pack_tree(tmp_path / "t", tmp_path / "t.tar.gz")
    assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    tracemalloc.stop()


def test_link_that_leads_out_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "l").symlink_to("/etc/passwd")
    with pytest.raises(InvalidEntityError, match="l: a symbolic link to /etc/passwd"):
        pack_tree(tmp_path / "t", tmp_path / "t.tar.gz")
    assert not (tmp_path / "t.tar.gz").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a bind mount")
def test_file_that_grows_is_noticed(tmp_path: Path) -> None:
    # /proc tells a size of 0, and more comes: as with a file that is being written to.
    grows = tmp_path / "t" / "a"
    grows.parent.mkdir()
    grows.touch()
    subprocess.run(["mount", "--bind", "/proc/version", grows], check=True)
    try:
        with pytest.raises(InvalidEntityError, match="changed while it was packed"):
            pack_tree(tmp_path / "t", tmp_path / "t.tar.gz")
    finally:
        subprocess.run(["umount", grows], check=True)
    assert not (tmp_path / "t.tar.gz").exists()


NAMES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/\\"),
    min_size=1,
    max_size=40,
).filter(lambda name: name not in (".", "..", "__MACOSX") and not name.startswith("._") and len(name.encode()) <= 255)
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=4).map("/".join),
    st.tuples(st.binary(max_size=2000), st.booleans()),
    max_size=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES)
def test_round_trip_keeps_the_tree(
    tree: dict[str, tuple[bytes, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("round")
    root = base / "root"
    root.mkdir()
    for name, (content, executable) in tree.items():
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as stream:
                stream.write(content)
        except OSError:
            continue  # one name is a folder of another
        path.chmod(0o755 if executable else 0o644)
    pack_tree(root, base / "a.tar.gz")
    unpack(base / "a.tar.gz", base / "out")
    assert tree_digest(base / "out") == tree_digest(root)


@settings(max_examples=150, deadline=None)
@given(noise=st.binary(max_size=3000), position=st.integers(0, 4000))
def test_noise_never_gets_past_as_another_error(
    noise: bytes, position: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("noise")
    whole = io.BytesIO(FILE + pax(record("path", b"b")) + entry("x", b"y" * 600) + link("l", "b") + END)
    whole.seek(position % len(whole.getvalue()))
    whole.write(noise)
    (base / "a.tar").write_bytes(whole.getvalue())
    try:
        unpack(base / "a.tar", base / "out")
    except InvalidEntityError:
        assert not (base / "out").exists()
