"""Archives: demo data and additional files (``unpack``), and what ``docker save`` writes."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import posixpath
import shutil
import stat
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from medperf_core.errors import MedperfError
from medperf_core.plugin import BackendContext
from medperf_core.plugin.digest import tree_digest
from medperf_core.plugin.identities import DIGEST
from medperf_core.plugin.image_archive import read, scan
from medperf_core.site.archive import pack_tree, unpack
from medperf_core.site.tarstream import UnpackLimits
from medperf_docker.archive import nameless

from fuzz.target import Draw, Target

LIMITS = UnpackLimits(entries=64, bytes=1 << 20, ratio=200)
BLOCK = 512
NAMES = (
    "a", "b/c", "a/b", "dir", "dir/x", "link", "link/x", "../out", "/abs", "a/../../b", ".", "", "./a", "a//b", "._a",
    "__MACOSX/a", "a\\b", "a\0b", "\udcff", "paths.yaml", "n" * 300, "/".join("d" * 70), "manifest.json", "index.json",
)  # fmt: skip
KINDS = tuple(b"05123467LKxgSV\0DX")


def mended(data: bytes) -> bytes:
    """The data with a right checksum in every block that could be a tar header."""
    blocks = [bytearray(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    for block in blocks:
        if len(block) == BLOCK and any(block) and block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


def wrapped(data: bytes) -> bytes:
    """The archive that an input stands for: its first byte says how it is finished."""
    how, rest = data[:1], data[1:]
    match how[0] % 6 if how else 0:
        case 0:
            return rest
        case 1:
            return mended(rest)
        case 2:
            return gzip.compress(mended(rest), 1, mtime=0)
        case 3:
            return bz2.compress(mended(rest), 1)
        case 4:
            return lzma.compress(mended(rest), preset=0)
        case _:
            return mended(rest) + bytes(2 * BLOCK)


def tar_of(entries: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    for info, content in entries:
        out.write(
            info.tobuf(tarfile.PAX_FORMAT if info.pax_headers else tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        )
        out.write(content + bytes(-len(content) % BLOCK))
    out.write(bytes(2 * BLOCK))
    return out.getvalue()


def entry(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname, info.mode = len(content), kind, link, mode
    return info, content


def run_archive(data: bytes, folder: Path) -> None:
    _unpack(wrapped(data), folder)


def run_entries(data: bytes, folder: Path) -> None:
    """A tar of well-formed headers that say what an input likes."""
    draw = Draw(data)
    entries = []
    for _ in range(1 + draw.number(8)):
        content = draw.take(draw.number(32))
        info, _ = entry(draw.text(NAMES), content, bytes([draw.pick(KINDS)]), draw.text(NAMES), draw.number(1 << 13))
        if draw.number(4) == 1:
            info.pax_headers = {
                draw.pick(("path", "linkpath", "size", "GNU.sparse.map", "hdrcharset", "mtime")): draw.text(
                    ("0", "-1", "99999999999999999999", "\N{SUPERSCRIPT TWO}", *NAMES)
                ).replace("\0", "")
            }
        if draw.number(8) == 1:
            info.size = draw.pick((0, 1, 1 << 20, 1 << 40, (1 << 63) - 1))
        if info.isdev():
            info.devmajor = info.devminor = draw.number(8)
        entries.append((info, content))
    try:
        made = tar_of(entries)
    except (ValueError, UnicodeError):
        return  # no header can say that
    _unpack(gzip.compress(made, 1, mtime=0) if draw.flag() else made, folder)


def _unpack(content: bytes, folder: Path) -> None:
    archive, target = folder / "archive.tar", folder / "target"
    archive.write_bytes(content)
    try:
        unpack(archive, target, LIMITS)
    except MedperfError:
        assert sorted(os.listdir(folder)) == ["archive.tar"], "something was left behind"  # noqa: PTH208
        raise
    try:
        _check_tree(target, len(content))
        packed = pack_tree(target, folder / "again.tar.gz")
        unpack(folder / "again.tar.gz", folder / "again", UnpackLimits())
        assert tree_digest(folder / "again") == tree_digest(target), "packing and unpacking changed it"
        assert hashlib.sha256((folder / "again.tar.gz").read_bytes()).hexdigest() == packed.sha256
    finally:
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(folder / "again", ignore_errors=True)
        (folder / "again.tar.gz").unlink(missing_ok=True)


def _check_tree(root: Path, packed: int) -> None:
    count = size = 0
    for place, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(place, name)
            found = path.lstat()
            count += 1
            size += found.st_size
            if stat.S_ISLNK(found.st_mode):
                assert Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)), f"{name!r} leads out"
            elif stat.S_ISDIR(found.st_mode):
                assert stat.S_IMODE(found.st_mode) == 0o755
            else:
                assert stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) in (0o644, 0o755)
            name.encode()
            assert not any(ord(char) < 32 for char in name)
    assert size <= LIMITS.bytes + 4096 * count


def _blob(documents: dict[str, bytes], content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    documents[f"blobs/sha256/{digest}"] = content
    return f"sha256:{digest}"


def image_archive(*, oci: bool = True, classic: bool = True, change: Mapping[str, bytes] | None = None) -> bytes:
    """What ``docker save`` writes, in its old form, as an OCI layout, or both."""
    documents: dict[str, bytes] = {}
    config = _blob(documents, b'{"architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}')
    layer = _blob(documents, tar_of([entry("file", b"content")]))
    manifest = _blob(documents, json.dumps({"config": {"digest": config}, "layers": [{"digest": layer}]}).encode())
    if oci:
        descriptor = {"digest": manifest, "annotations": {"org.opencontainers.image.ref.name": "latest"}}
        documents["index.json"] = json.dumps({"manifests": [descriptor]}).encode()
        documents["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    if classic:
        names = {digest: digest.replace("sha256:", "blobs/sha256/") for digest in (config, layer)}
        said = [{"Config": names[config], "RepoTags": ["a:b"], "Layers": [names[layer]]}]
        documents["manifest.json"] = json.dumps(said).encode()
    return tar_of(entry(name, content) for name, content in {**documents, **(change or {})}.items())


def run_saved(data: bytes, folder: Path) -> None:
    _scan(wrapped(data), folder)


IMAGE_WORDS = (
    "manifests", "digest", "annotations", "config", "layers", "Config", "Layers", "RepoTags", "architecture",
    "vnd.docker.reference.type", "blobs/sha256/", "manifest.json", "index.json", "layer.tar", "sha256:" + "0" * 64,
)  # fmt: skip


def run_saved_parts(data: bytes, folder: Path) -> None:
    """Image archives whose documents say what an input likes, with digests that fit."""
    draw = Draw(data)
    change: dict[str, bytes] = {}
    words = list(IMAGE_WORDS)
    for _ in range(draw.number(4)):
        value = draw.value(IMAGE_WORDS, 4)
        digest = _blob(change, json.dumps(value).encode())
        words += [digest, digest.replace("sha256:", "blobs/sha256/")]
    for name in ("index.json", "manifest.json"):
        if draw.flag():
            value = draw.value(words, 4)
            if name == "index.json" and draw.flag():
                value = {"manifests": [{"digest": draw.pick(words), **(value if isinstance(value, dict) else {})}]}
            elif draw.flag():
                value = [{"Config": draw.pick(words), "Layers": [draw.pick(words)]}]
            change[name] = draw.pick((b"", b" ", b"\n", b"\xef\xbb\xbf")) + json.dumps(value).encode()
    made = image_archive(oci=draw.flag(), classic=draw.flag(), change=change)
    _scan(gzip.compress(made, 1, mtime=0) if draw.flag() else made, folder)


def _scan(content: bytes, folder: Path) -> None:
    path = folder / "image.tar"
    path.write_bytes(content)
    context = BackendContext(cache_dir=folder, temp_dir=folder)
    digest, found = read(path, context)
    assert digest == hashlib.sha256(content).hexdigest()
    for image in found:
        assert DIGEST.fullmatch(image.config)
        out = b"".join(nameless(path, image, context, "loading"))
        assert out.endswith(bytes(2 * BLOCK))
        with tarfile.open(fileobj=io.BytesIO(out), mode="r:") as tar:
            names = tar.getnames()
            assert len({posixpath.normpath(name) for name in names}) == len(names), "a name is there twice"
            assert not {"index.json", "repositories"} & {posixpath.normpath(name) for name in names} - {"index.json"}
            file = tar.extractfile("manifest.json")
            said = json.loads(file.read()) if file else []
            assert [item["RepoTags"] for item in said] == [None], "a name was kept"
        try:
            (again,) = scan(io.BytesIO(out), "what the engine gets")
        except MedperfError as error:
            raise AssertionError("what the engine would get cannot be read") from error
        assert again.config == image.config, "the engine would get another image"


def _archive_seeds() -> Iterable[bytes]:
    plain = tar_of([entry("a", b"text"), entry("dir", kind=tarfile.DIRTYPE), entry("dir/x", b"y" * 600, mode=0o755)])
    hostile = [
        entry("link", kind=tarfile.SYMTYPE, link="../out"),
        entry("link/x", b"through"),
        entry("hard", kind=tarfile.LNKTYPE, link="a"),
        entry("dev", kind=tarfile.CHRTYPE),
        entry("n" * 200, b"long"),
    ]
    pax = tarfile.TarInfo("p")
    pax.pax_headers = {"path": "q", "size": "3"}
    pax.size = 3
    sparse = tarfile.TarInfo("s")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    sparse.size = 12
    tars = (
        plain,
        *(tar_of([entry("a", b"1"), each]) for each in hostile),
        tar_of([(pax, b"abc")]),
        tar_of([(sparse, b"1\n0\n3\nabc...")]),
    )
    for number, tar in enumerate(tars):
        yield bytes([5 if number else 1]) + tar
        yield b"\0" + gzip.compress(tar, mtime=0)
    for how in (2, 3, 4):
        yield bytes([how]) + plain


def _saved_seeds() -> Iterable[bytes]:
    for oci, classic in ((True, True), (True, False), (False, True)):
        image = image_archive(oci=oci, classic=classic)
        yield b"\1" + image
        yield b"\0" + gzip.compress(image, mtime=0)
    yield from _archive_seeds()


TAR_WORDS = ("ustar\x0000", "ustar  \0", " path=", " size=", " linkpath=", " GNU.sparse.", "../", "./", "30 mtime=")

TARGETS = (
    Target("archive", run_archive, _archive_seeds, TAR_WORDS, 8192),
    Target("archive-entries", run_entries, lambda: [bytes(range(256)), b"\0" * 40, b"\3" * 90], longest=512),
    Target("saved-image", run_saved, _saved_seeds, (*TAR_WORDS, *IMAGE_WORDS), 16384),
    Target("saved-image-parts", run_saved_parts, lambda: [bytes(range(256)), b"\1" * 90, b""], longest=512),
)
