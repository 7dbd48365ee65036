"""What holds for every address, tree, package and word, on generated ones."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from medperf_examples import wdbc
from medperf_storage.addresses import AddressRefused, AddressRules

from medperf_core import Site
from medperf_core.entities import IdentityKind, ImageIdentity
from medperf_core.errors import TransferError
from medperf_core.journeys.package import package
from medperf_core.plugin import Gpus, Storage
from medperf_core.plugin.digest import public_folder_hash, source_digest, tree_digest
from medperf_core.plugin.image_reference import Reference
from medperf_core.plugin.isolation import WAIVERS, Waiver
from medperf_core.plugin.network import is_local
from medperf_core.site.archive import unpack
from medperf_core.site.fetch import Origin, _address, _redacted
from medperf_core.site.options import parse_size

RELAXED = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])

SCHEMES = "https:// http:// HTTPS: file: FILE:// direct:"
HOSTS = (
    "host.example 127.0.0.1 localhost [::1] 0x7f.1 2130706433 ::ffff:127.0.0.1 \u0661 \uff0f \u3002 user:hush-hush@ @"
)
RESTS = ":80 / // .. %2e %00 ?token=hush-hush #hush-hush \\"
PIECES = st.sampled_from([*f"{SCHEMES} {HOSTS} {RESTS}".split(), " ", "\n"])
ADDRESSES = st.lists(PIECES, min_size=1, max_size=6).map("".join) | st.text(max_size=30)


@RELAXED
@given(text=ADDRESSES, origin=st.sampled_from(list(Origin)))
def test_an_address_is_followed_as_its_origin_allows_or_refused(text: str, origin: Origin) -> None:
    assume(not text.strip().startswith("~"))  # a home folder: its own test is beside the fetcher's
    try:
        address = _address(text, origin)
    except TransferError as error:
        assert len(str(error)) < 600
        return
    scheme = address.partition(":")[0]
    assert scheme == scheme.lower() and not any(char.isspace() for char in address)
    assert scheme != "file" or origin.allow_local


@RELAXED
@given(path=st.text(alphabet="abc/.-_%", max_size=20), secret=st.from_regex(r"[a-z0-9]{12}", fullmatch=True))
def test_no_secret_of_an_address_is_shown(path: str, secret: str) -> None:
    address = f"https://user:{secret}@host.example/{path}?sig={secret}#{secret}"
    assert secret not in _redacted(address) and "host.example" in _redacted(address)
    assert secret not in Storage.redact(None, address)  # type: ignore[arg-type]  # it uses nothing of its store


@RELAXED
@given(st.ip_addresses(), st.booleans())
def test_this_machine_is_reached_in_no_spelling(ip: object, encrypted: bool) -> None:
    rules = AddressRules(allow_local=False, allow_plain=True, encrypted=encrypted)
    text = str(ip)
    try:
        rules.check_host(text)
    except AddressRefused:
        return
    assert not is_local(text) and not text.startswith(("127.", "0.0.0.0", "169.254."))


@RELAXED
@given(st.integers(0x7F000000, 0x7FFFFFFF), st.sampled_from(["{}", "{:#x}", "{:#o}"]))
def test_a_number_is_an_address_too(number: int, spelling: str) -> None:
    host = spelling.format(number).replace("0o", "0")
    with pytest.raises(AddressRefused):
        AddressRules(allow_local=False, allow_plain=True, encrypted=True).check_host(host)


NAMES = st.text(alphabet="ab.é-_ ", min_size=1, max_size=6).filter(lambda name: name.strip(".") != "")
FILES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.tuples(st.binary(max_size=40), st.booleans()), max_size=6
)


def make(root: Path, files: dict[str, tuple[bytes, bool]]) -> dict[str, tuple[bytes, bool]]:
    """Write a tree; returns what could be written (one name may be a folder of another)."""
    written = {}
    root.mkdir(parents=True)
    for name, (content, executable) in files.items():
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as stream:
                stream.write(content)
        except OSError:
            continue
        path.chmod(0o755 if executable else 0o644)
        written[name] = (content, executable)
    return written


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "place"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@RELAXED
@given(first=FILES, second=FILES)
def test_trees_have_one_hash_exactly_if_they_are_the_same(
    first: dict[str, tuple[bytes, bool]], second: dict[str, tuple[bytes, bool]], place: Path
) -> None:
    shutil.rmtree(place, ignore_errors=True)
    one, other = make(place / "one", first), make(place / "other", second)
    assert (tree_digest(place / "one") == tree_digest(place / "other")) == (one == other)
    for path in (place / "one").rglob("*"):
        os.utime(path, (1, 1))
    make(place / "copy", dict(reversed(one.items())))
    assert tree_digest(place / "one") == tree_digest(place / "copy")


@RELAXED
@given(files=FILES)
def test_the_public_hash_knows_contents_only(files: dict[str, tuple[bytes, bool]], place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    written = make(place / "data", files)
    hashes = sorted(hashlib.sha256(content).hexdigest() for content, _ in written.values())
    assert public_folder_hash([place / "data"]) == hashlib.sha256("".join(hashes).encode()).hexdigest()


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(project=FILES, additional=FILES)
def test_a_package_holds_what_was_packaged(
    project: dict[str, tuple[bytes, bool]], additional: dict[str, tuple[bytes, bool]], place: Path
) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(wdbc.containers()["model_logreg"], place / "model")
    make(place / "model" / "project" / "more", project)
    workspace = place / "model" / "mlcube" / "workspace" / "additional_files"
    make(workspace / "more", additional)
    with Site.open(place / "home") as site:
        made = package(site, place / "model" / "mlcube")
        again = package(site, place / "model" / "mlcube")
    assert made.files == again.files
    unpack(made.folder / "project.tar.gz", place / "project")
    unpack(made.folder / "additional_files.tar.gz", place / "additional")
    assert made.images == (ImageIdentity(IdentityKind.SOURCE, source_digest(place / "project")),)
    assert source_digest(place / "project") == source_digest(place / "model" / "project")
    assert source_digest(place / "additional") == source_digest(workspace)


@RELAXED
@given(st.sampled_from(sorted(WAIVERS)), st.sampled_from(list(IdentityKind)), st.binary(min_size=32, max_size=32))
def test_words_are_read_back_as_they_are_written(name: str, kind: IdentityKind, digest: bytes) -> None:
    identity = ImageIdentity(kind, f"sha256:{digest.hex()}")
    assert ImageIdentity.parse(str(identity)) == identity
    for waiver in (Waiver(name), Waiver(name, identity)):
        assert Waiver.parse(str(waiver)) == waiver


@RELAXED
@given(
    st.integers(1, 1 << 53),
    st.integers(0, 999),
    st.lists(st.from_regex(r"[A-Za-z0-9-]{1,9}", fullmatch=True), max_size=3),
)
def test_amounts_are_read_back_as_they_are_written(size: int, count: int, ids: list[str]) -> None:
    assert parse_size(str(size)) == size
    gpus = Gpus(ids=tuple(ids)) if ids else Gpus(count=count)
    assert Gpus.parse(str(gpus)) == gpus


PART = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)?", fullmatch=True)


@RELAXED
@given(st.lists(PART, min_size=1, max_size=3), st.from_regex(r"[A-Za-z0-9_]{1,9}", fullmatch=True), st.booleans())
def test_an_image_reference_keeps_its_parts(parts: list[str], tag: str, pinned: bool) -> None:
    name, digest = "/".join(["host.example:5000", *parts]), "sha256:" + "0" * 64
    found = Reference.parse(f"{name}:{tag}" + (f"@{digest}" if pinned else ""))
    assert (found.name, found.tag, found.digest) == (name, tag, digest if pinned else None)
    assert Reference.parse(found.local).name == name
