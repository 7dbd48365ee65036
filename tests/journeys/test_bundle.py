"""A benchmark carried to a site without internet: made in one home, loaded and run in another, without any network."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from medperf_examples.tutorial import OWNER

from medperf_core import DenyAll
from medperf_core.entities import Benchmark, Container
from medperf_core.errors import (
    DeniedError,
    InvalidEntityError,
    MedperfError,
    NotFoundError,
    OfflineError,
    TransferError,
    UsageError,
    VerificationError,
)
from medperf_core.journeys.bundle import create_bundle, load_bundle
from medperf_core.journeys.compatibility import run_test
from medperf_core.site import bundle_room
from medperf_core.site.audit import Event
from medperf_core.site.bundle_index import INDEX_NAME, SIGNATURE_NAME, read_index, write_signature
from medperf_core.site.bundle_part import part_of
from medperf_core.site.bundles import BundleStore
from medperf_core.site.cache import Kind
from medperf_core.site.cache_gc import collect
from medperf_core.site.home import Home
from medperf_core.site.profiles import ProfileStore
from medperf_core.site.tarstream import TarStream

from .bundles import Island, island, maker, members, replaced, resigned, rewritten
from .conftest import Tutorial

pytestmark = pytest.mark.usefixtures("no_network")


# --- the journey --------------------------------------------------------------------------------------------------


def test_made_here_and_run_there(shared: Tutorial, bundle: Path, far: Island) -> None:
    with shared.site() as site:
        here = run_test(site, benchmark=1)
        wanted = site.server.get(Benchmark, 1)
    with far.site() as site:
        loaded = load_bundle(site, bundle)
        assert loaded.index.maker == maker(shared)
    moved = shared.home.with_name("out of reach")
    folder = shared.folder.with_name("gone")
    shared.home.rename(moved)
    shared.folder.rename(folder)
    try:
        with far.site() as site:
            there = run_test(site, benchmark=1)
            assert site.server.get(Benchmark, 1).name == wanted.name
            assert [each.id for each in site.server.list(Container)] == [1, 2, 3]
    finally:
        moved.rename(shared.home)
        folder.rename(shared.folder)
    assert there.results == here.results
    assert [step.images for step in there.steps] == [step.images for step in here.steps]


def test_the_audit_log_of_the_maker_has_it(shared: Tutorial, bundle: Path) -> None:
    with shared.site() as site:
        sent, done = [entry for entry in site.audit.entries() if entry.action == "create bundle"][:2]
    assert (sent.event, done.event, done.of) == (Event.SENDING, Event.ACKNOWLEDGED, sent.n)
    assert str(bundle) in sent.server and sent.sha256 == hashlib.sha256(members(bundle)[1][1]).hexdigest()
    whole = bundle.read_bytes()
    assert (done.sha256, done.size) == (hashlib.sha256(whole).hexdigest(), len(whole)) and "whole file" in done.note
    with shared.site() as site:
        files = [each for each in site.audit.entries() if each.action == "put into bundle" and sent.n < each.n < done.n]
    assert [(each.sha256, each.size) for each in files] == [(item.name, item.size) for item, _ in members(bundle)[2:]]
    assert all(each.server == sent.server and each.approved_by == sent.approved_by for each in files)


def test_the_same_again_is_the_same_file_but_for_its_time(shared: Tutorial, bundle: Path, tmp_path: Path) -> None:
    with shared.site() as site:
        again = create_bundle(site, benchmark=1, output=tmp_path / "again.tar", platforms=["process"])
    first, second = members(bundle), members(again.path)
    assert [(item.name, data) for item, data in first[2:]] == [(item.name, data) for item, data in second[2:]]
    assert all((item.mtime, item.uid, item.uname, item.mode) == (0, 0, "", 0o644) for item, _ in second)
    old, new = json.loads(first[1][1]), json.loads(second[1][1])
    assert {**old, "created_at": ""} == {**new, "created_at": ""}
    assert str(shared.home) not in json.dumps({**new, "containers": "", "benchmarks": "", "models": ""})


def test_a_further_model_goes_along(shared: Tutorial, far: Island, tmp_path: Path) -> None:
    with shared.site() as site:
        made = create_bundle(site, benchmark=1, output=tmp_path / "m.tar", platforms=["process"], models=[2, 3])
        assert [each.id for each in made.index.containers] == [1, 2, 3]
        with pytest.raises(MedperfError):
            create_bundle(site, benchmark=1, output=tmp_path / "n.tar", platforms=["process"], models=[99])
    far.load(made.path)
    with far.site() as site:
        (model,) = made.index.models
        assert model.container is not None and site.server.model_of(model.container.uid) == model


def test_what_is_not_in_it_is_said(bundle: Path, far: Island) -> None:
    far.load(bundle)
    with far.site() as site:
        with pytest.raises(NotFoundError, match="no loaded bundle has the benchmark 2"):
            run_test(site, benchmark=2)
        with pytest.raises(OfflineError):
            site.server.login(None, lambda *_: "")
    with far.site(offline=False) as site, pytest.raises(MedperfError, match=r"names no server.*Add --offline"):
        run_test(site, benchmark=1)


def test_loaded_twice_is_loaded_once_and_can_be_forgotten(bundle: Path, far: Island) -> None:
    far.load(bundle)
    far.load(bundle)
    with far.site() as site:
        (loaded,) = BundleStore(site.home).list()
        pinned = BundleStore(site.home).files()
    assert len(pinned) == len(loaded.index.entries)
    for file in (far.home / "cache" / "files" / "files").rglob("*.json"):
        os.utime(file, (1, 1))
    assert collect(Home(far.home), keep=0, pinned=lambda: pinned).freed == ()
    with far.site() as site:
        BundleStore(site.home).remove("island", loaded.name[:12])
        assert BundleStore(site.home).files() == frozenset()
        with pytest.raises(NotFoundError):
            BundleStore(site.home).remove("island", loaded.name[:12])


def test_a_bundle_of_another_server_needs_another_profile(shared: Tutorial, bundle: Path, tmp_path: Path) -> None:
    far = island(tmp_path, maker(shared))
    ProfileStore(Home(far.home)).update("island", {"server": "https://registry.example"})
    with pytest.raises(UsageError, match=r"https://registry\.example"):
        far.load(bundle)
    ProfileStore(Home(far.home)).update("island", {"server": ""})
    far.load(bundle)
    other = resigned(shared, bundle, tmp_path / "o.tar", lambda index: index.update(server="https://other.example"))
    with pytest.raises(UsageError, match=r"https://other\.example"):
        far.load(other)


# --- what may leave -----------------------------------------------------------------------------------------------


def test_a_no_writes_nothing(shared: Tutorial, bundle: Path, tmp_path: Path) -> None:
    with shared.site(approver=DenyAll()) as site, pytest.raises(DeniedError):
        create_bundle(site, benchmark=1, output=tmp_path / "no.tar", platforms=["process"])
    assert not (tmp_path / "no.tar").exists() and not part_of(tmp_path / "no.tar").exists()


def test_a_policy_of_other_benchmarks_denies(shared: Tutorial, bundle: Path, tmp_path: Path) -> None:
    store = ProfileStore(Home(shared.home))
    store.create("strict", like=OWNER)
    store.set_text("strict", "policy.benchmarks", "7")
    with shared.site() as site:
        site.credentials.put(
            f"strict {site.profile.server}", dict(site.credentials.get(site.login_name(site.profile.server)) or {})
        )
    with shared.site("strict") as site, pytest.raises(DeniedError):
        create_bundle(site, benchmark=1, output=tmp_path / "no.tar", platforms=["process"])


def test_lists_of_people_stay_here(tutorial: Tutorial, tmp_path: Path) -> None:
    """Not even the owner of the benchmark, who sees them, gives them away."""
    with tutorial.committee() as site:
        site.gate.update(Benchmark, 1, {"model_auto_approval_allow_list": ["somebody@example.org"]})
        assert site.server.get(Benchmark, 1).model_auto_approval_allow_list == ["somebody@example.org"]
        made = create_bundle(site, benchmark=1, output=tmp_path / "b.tar", platforms=["process"], unsigned=True)
    assert made.index.benchmarks[0].model_auto_approval_allow_list == []
    assert b"somebody" not in made.path.read_bytes()


def test_without_a_key_it_says_how_to_make_one(tutorial: Tutorial, tmp_path: Path) -> None:
    with tutorial.site() as site:
        with pytest.raises(NotFoundError, match="medperf site key"):
            create_bundle(site, benchmark=1, output=tmp_path / "b.tar", platforms=["process"])
        made = create_bundle(site, benchmark=1, output=tmp_path / "b.tar", platforms=["process"], unsigned=True)
        with pytest.raises(UsageError, match="there already"):
            create_bundle(site, benchmark=1, output=tmp_path / "b.tar", platforms=["process"], unsigned=True)
    far = island(tmp_path)
    with pytest.raises(VerificationError, match="--allow unsigned"):
        far.load(made.path)
    assert far.is_untouched
    far.load(made.path, allow=("unsigned",))
    with far.site(allow=("unsigned", "no-isolation")) as site:
        assert run_test(site, benchmark=1).results["cases"] == 30


# --- what is not taken in -----------------------------------------------------------------------------------------


def test_an_unknown_maker_is_named_and_how_to_trust_it(shared: Tutorial, bundle: Path, tmp_path: Path) -> None:
    far = island(tmp_path, "SHA256:" + "A" * 43)
    with pytest.raises(VerificationError) as caught:
        far.load(bundle, allow=("unsigned",))
    assert f"trusted_keys=SHA256:{'A' * 43},{maker(shared)}" in str(caught.value)
    assert far.is_untouched


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    item = tarfile.TarInfo(name)
    item.type, item.linkname = kind, link
    return item


CHANGES: dict[str, Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]] = {
    "index": lambda found: replaced(found, 1, found[1][1].replace(b'"benchmark":1', b'"benchmark":2')),
    "blank in the index": lambda found: replaced(found, 1, found[1][1] + b" "),
    "entry": lambda found: replaced(found, 2, _flip(found[2][1])),
    "last entry": lambda found: replaced(found, -1, _flip(found[-1][1])),
    "longer entry": lambda found: replaced(found, 2, found[2][1] + b"x"),
    "shorter entry": lambda found: replaced(found, 2, found[2][1][:-1]),
    "extra member": lambda found: found.append((_named("ab" * 32), b"")),
    "extra in the middle": lambda found: found.insert(3, (_named("../../../home"), b"x")),
    "twice": lambda found: found.insert(3, found[2]),
    "missing": lambda found: found.__delitem__(3),
    "last missing": lambda found: found.__delitem__(-1),
    "other order": lambda found: found.reverse(),
    "swapped": lambda found: found.__setitem__(slice(2, 4), [found[3], found[2]]),
    "link": lambda found: found.__setitem__(2, (_named(found[2][0].name, tarfile.SYMTYPE, "/etc/passwd"), b"")),
    "hard link": lambda found: found.__setitem__(3, (_named(found[3][0].name, tarfile.LNKTYPE, found[2][0].name), b"")),
    "device": lambda found: found.__setitem__(2, (_named(found[2][0].name, tarfile.CHRTYPE), b"")),
    "folder first": lambda found: found.insert(0, (_named("folder", tarfile.DIRTYPE), b"")),
    "two indexes": lambda found: found.insert(2, found[1]),
    "signature": lambda found: replaced(found, 0, write_signature(bytes(32), bytes(64))),
    "signature that is none": lambda found: replaced(found, 0, b"{}"),
    "signature of another form": lambda found: replaced(found, 0, b"[" * 2000),
    "large signature": lambda found: replaced(found, 0, b" " * 5000),
    "without signature": lambda found: found.__delitem__(0),
    "without index": lambda found: found.__delitem__(1),
    "link as index": lambda found: found.__setitem__(1, (_named(INDEX_NAME, tarfile.SYMTYPE, "/etc/passwd"), b"")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_on_the_way_is_refused(what: str, bundle: Path, far: Island, tmp_path: Path) -> None:
    changed = rewritten(bundle, tmp_path / "changed.tar", CHANGES[what])
    with pytest.raises((VerificationError, InvalidEntityError)):
        far.load(changed)
    assert far.is_untouched
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed.tar", "island"]
    far.load(bundle)


def test_a_removed_signature_is_refused_even_where_unsigned_is_allowed(
    bundle: Path, far: Island, tmp_path: Path
) -> None:
    changed = rewritten(bundle, tmp_path / "changed.tar", lambda found: found.__delitem__(0))
    with pytest.raises(VerificationError, match="exchanged or removed"):
        far.load(changed, allow=("unsigned",))
    assert far.is_untouched


@pytest.mark.parametrize("size", [0, 1, 511, 700, 5000, -600, -1500])
def test_a_bundle_that_was_cut_is_refused(size: int, bundle: Path, far: Island, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(bundle.read_bytes()[:size])
    with pytest.raises((VerificationError, InvalidEntityError)):
        far.load(cut)
    assert far.is_untouched


def test_what_is_no_bundle_is_refused(bundle: Path, far: Island, tmp_path: Path) -> None:
    import gzip

    for name, data in (("gz", gzip.compress(bundle.read_bytes())), ("text", b"hello " * 500), ("zeros", bytes(2048))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InvalidEntityError, match="is not a bundle"):
            far.load(tmp_path / name)
    with pytest.raises(NotFoundError):
        far.load(tmp_path / "missing")
    with pytest.raises(NotFoundError):
        far.load(tmp_path)


def test_a_header_that_claims_more_than_any_index_reads_nothing(
    bundle: Path, far: Island, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = tarfile.TarInfo(SIGNATURE_NAME)
    item.size = 1 << 32
    (tmp_path / "claims.tar").write_bytes(item.tobuf() + bytes(1 << 20))
    taken, real = 0, TarStream._take

    def take(self: TarStream, size: int) -> bytes:
        nonlocal taken
        data = real(self, size)
        taken += len(data)
        return data

    monkeypatch.setattr(TarStream, "_take", take)
    with pytest.raises(InvalidEntityError, match="of a size"):
        far.load(tmp_path / "claims.tar")
    assert taken <= 1024


SIGNED_NONSENSE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "newer form": lambda index: index.update(format=2),
    "no form": lambda index: index.pop("format"),
    "unknown key": lambda index: index.update(extra=1),
    "path as a hash": lambda index: index["entries"][0].update(sha256="../../../etc/passwd"),
    "negative size": lambda index: index["entries"][0].update(size=-1),
    "huge": lambda index: index["entries"][0].update(size=1 << 60),
    "text as a size": lambda index: index["entries"][0].update(size="7"),
    "twice": lambda index: index["entries"].append(index["entries"][0]),
    "too many": lambda index: index.update(
        entries=[{**index["entries"][0], "sha256": f"{i:064x}"} for i in range(10_001)]
    ),
    "image of nothing": lambda index: index.update(
        images=[{"container": 1, "kind": "archive", "sha256": "ab" * 32, "identities": []}]
    ),
    "image of no kind": lambda index: index.update(
        images=[{"container": 1, "kind": "tree", "sha256": index["entries"][0]["sha256"], "identities": []}]
    ),
    "nobody's container": lambda index: index["containers"][0].update(owner=None),
    "no benchmark": lambda index: index.update(benchmarks=[]),
    "another maker": lambda index: index.update(maker="SHA256:" + "B" * 43),
    "no maker": lambda index: index.update(maker=""),
    "control characters": lambda index: index["entries"][0].update(what="\x1b[2J"),
    "no time": lambda index: index.update(created_at="yesterday"),
    "a time that is not UTC": lambda index: index.update(created_at="2026-01-01T00:00:00+02:00"),
    "a time of nowhere": lambda index: index.update(created_at="2026-01-01T00:00:00"),
}


@pytest.mark.parametrize("what", SIGNED_NONSENSE)
def test_a_trusted_maker_is_not_believed_everything(
    what: str, shared: Tutorial, bundle: Path, far: Island, tmp_path: Path
) -> None:
    changed = resigned(shared, bundle, tmp_path / "changed.tar", SIGNED_NONSENSE[what])
    with pytest.raises((VerificationError, InvalidEntityError)):
        far.load(changed)
    assert far.is_untouched


@pytest.mark.parametrize("text", [rb"\ud800", rb"\u0000", b"\xff"])
def test_an_index_of_odd_characters_is_refused(text: bytes, bundle: Path) -> None:
    data = members(bundle)[1][1]
    with pytest.raises(InvalidEntityError):
        read_index(data.replace(b'"what":"', b'"what":"' + text), "b.tar")
    assert read_index(data, "b.tar").benchmark == 1


def test_a_disk_without_room_is_refused_before_anything_is_read(
    bundle: Path, far: Island, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_room, "MARGIN", 1 << 60)
    with pytest.raises(TransferError, match="no room"):
        far.load(bundle)
    assert far.is_untouched


# --- interrupted --------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from medperf_core import ApproveAll, Site, SiteOptions
from medperf_core.journeys.bundle import create_bundle, load_bundle

verb, home, profile, file, left = sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), [int(sys.argv[5])]
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.link", "os.truncate"}
writing = os.O_WRONLY | os.O_RDWR

def step():
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def hook(event, words):
    if event in CHANGES or (event == "open" and isinstance(words[2], int) and words[2] & writing):
        step()

options = SiteOptions(offline=verb == "load", allow=("no-isolation",))
with Site.open(home, profile=profile, approver=ApproveAll("test"), options=options) as site:
    sys.addaudithook(hook)
    if verb == "create":
        import medperf_core.site.bundle_file as file_of_bundle
        real = file_of_bundle._write_entry
        def slowly(stream, entry, path, on_bytes):
            def count(size):
                stream.stream.flush()
                step()
                on_bytes(size)
            real(stream, entry, path, count)
        file_of_bundle._write_entry = slowly
        create_bundle(site, benchmark=1, output=file, platforms=["process"])
    else:
        load_bundle(site, file)
    print(int(sys.argv[5]) - left[0])
"""


def killed(verb: str, home: Path, profile: str, file: Path, after: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLED, verb, home, profile, file, str(after)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_killed_create_goes_on(shared: Tutorial, bundle: Path, tmp_path: Path) -> None:
    whole = killed("create", shared.home, OWNER, tmp_path / "whole.tar", 0)
    assert whole.returncode == 0, whole.stderr
    changes, kept = int(whole.stdout), set()
    for after in sorted({3, changes // 2, *range(changes - 16, changes, 3), changes}):
        output = tmp_path / f"{after}.tar"
        assert killed("create", shared.home, OWNER, output, after).returncode == -signal.SIGKILL
        if not output.exists():
            begun = part_of(output).read_bytes() if part_of(output).exists() else b""
            with shared.site() as site:
                made = create_bundle(site, benchmark=1, output=output, platforms=["process"])
            kept.add(made.kept)
            if made.kept:
                assert output.read_bytes().startswith(begun[: made.kept])
        elif part_of(output).exists():  # killed while it was given its name
            assert output.samefile(part_of(output))
            with shared.site() as site, pytest.raises(UsageError, match="there already"):
                create_bundle(site, benchmark=1, output=output, platforms=["process"])
        assert not part_of(output).exists()
        assert [data for _, data in members(output)[2:]] == [data for _, data in members(bundle)[2:]]
    assert len(kept) > 2


def test_a_part_of_something_else_is_no_start(shared: Tutorial, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "b.tar"
    for content in (b"letters", bundle.read_bytes()[:3000] + b"x" * 3000, bytes(5000)):
        part_of(output).write_bytes(content)
        with shared.site() as site:
            create_bundle(site, benchmark=1, output=output, platforms=["process"])
        assert [data for _, data in members(output)[2:]] == [data for _, data in members(bundle)[2:]]
        output.unlink()


def test_a_killed_load_goes_on(shared: Tutorial, bundle: Path, tmp_path: Path) -> None:
    first = island(tmp_path / "first", maker(shared))
    whole = killed("load", first.home, "island", bundle, 0)
    assert whole.returncode == 0, whole.stderr
    changes = int(whole.stdout)
    with first.site() as site:
        results = run_test(site, benchmark=1).results
    for number in (2, changes // 3, 2 * changes // 3, changes):
        far = island(tmp_path / str(number), maker(shared))
        assert killed("load", far.home, "island", bundle, number).returncode == -signal.SIGKILL
        with far.site() as site:
            whole_ones = [entry.path for entry in site.cache.entries() if entry.kind is Kind.FILE]
            before = {path: path.stat().st_ino for path in whole_ones}
            load_bundle(site, bundle)
            assert site.cache.verify() == []
            assert {path: path.stat().st_ino for path in before} == before
    with far.site() as site:
        assert run_test(site, benchmark=1).results == results


def test_in_a_namespace_without_any_network(bundle: Path, far: Island) -> None:
    """The whole command lines, where not even loopback is up."""
    if subprocess.run(["unshare", "-rn", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    medperf = [sys.executable, "-m", "medperf_core.cli", "--home", str(far.home), "--profile", "island"]
    script = " && ".join(
        " ".join([*medperf, *words])
        for words in (
            ("bundle", "load", str(bundle)),
            ("test", "run", "--offline", "-b", "1", "--allow", "no-isolation"),
        )
    )
    done = subprocess.run(["unshare", "-rn", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "The test passed" in done.stderr
