"""Files of the home folder: somebody may have changed them."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from medperf_core.errors import MedperfError, VerificationError
from medperf_core.journeys.steps import _earlier
from medperf_core.site.audit import AuditEntry, AuditHead, AuditLog, Event
from medperf_core.site.cache import Cache
from medperf_core.site.credentials import CredentialStore
from medperf_core.site.credentials_keyring import SystemKeyring
from medperf_core.site.home import Home
from medperf_core.site.outbox import Outbox
from medperf_core.site.profiles import ProfileStore
from medperf_core.site.records import Records

from fuzz.target import Draw, Target

UUID = "123e4567-e89b-12d3-a456-426614174000"
HASH = "ab" * 32


def _entry(number: int) -> AuditEntry:
    return AuditEntry(
        event=Event.SENDING, action="create model", target=f"model {number}", server="https://host", user="u",
        sha256=HASH, size=number, approved_by="person",
    )  # fmt: skip


_made: dict[str, tuple[bytes, bytes]] = {}


def _log(folder: Path) -> tuple[bytes, bytes]:
    """A log of four entries and its head."""
    if "log" not in _made:
        log = AuditLog(folder / "made")
        for number in range(4):
            log.append(_entry(number))
        _made["log"] = (folder / "made" / "log.jsonl").read_bytes(), (folder / "made" / "head.json").read_bytes()
        shutil.rmtree(folder / "made")
    return _made["log"]


def _put(folder: Path, log: bytes, head: bytes | None) -> AuditLog:
    place = folder / "audit"
    place.mkdir(exist_ok=True)
    (place / "log.jsonl").write_bytes(log)
    (place / "head.json").unlink(missing_ok=True)
    if head is not None:
        (place / "head.json").write_bytes(head)
    return AuditLog(place)


def run_audit(data: bytes, folder: Path) -> None:
    """Any log and any head."""
    head, found, log = data.partition(b"\0")
    audit = _put(folder, log, head if found else None)
    ends = audit.verify()
    assert audit.head() == ends and len(audit.entries()) == ends.count
    audit.append(_entry(9))
    assert audit.verify(ends).count == ends.count + 1


def run_tampered(data: bytes, folder: Path) -> None:
    """Changes of a true log: each must be found unless it changes nothing that was written whole."""
    log, head = _log(folder)
    draw = Draw(data)
    changed = bytearray(log)
    for _ in range(1 + draw.number(3)):
        at = draw.number(len(changed) + 1) if changed else 0
        match draw.number(4):
            case 0:
                changed[at:at] = draw.take(1 + draw.number(8))
            case 1:
                del changed[at : at + 1 + draw.number(600)]
            case 2:
                if at < len(changed):
                    changed[at] = draw.number(256)
            case _:
                lines = bytes(changed).split(b"\n")
                one, other = draw.number(len(lines)), draw.number(len(lines))
                lines[one], lines[other] = lines[other], lines[one]
                changed = bytearray(b"\n".join(lines))
    kept = head if draw.flag() else json.dumps({"count": draw.number(6), "head": HASH}).encode()
    try:
        ends = _put(folder, bytes(changed), kept).verify()
    except VerificationError:
        return
    assert kept == head and bytes(changed).startswith(log), "a change was not found"
    assert bytes(changed[len(log) :]).count(b"\n") == 0 and ends.count == 4
    assert ends == AuditHead(**json.loads(head))


_homes: dict[Path, Home] = {}


def _home(folder: Path) -> Home:
    if folder not in _homes:
        _homes[folder] = Home.open(folder / "home", environment={})
    return _homes[folder]


def run_profiles(data: bytes, folder: Path) -> None:
    home = _home(folder)
    home.config_file.write_bytes(data)
    store = ProfileStore(home)
    names = store.names()
    assert "default" in names and store.active_name in names
    kept = [store.get(name) for name in names]
    assert home.config_file.read_bytes() == data, "reading changed the file"
    store.update("default", {"loglevel": "debug"})
    assert [store.get(name) for name in names if name != "default"] == [
        profile for name, profile in zip(names, kept, strict=True) if name != "default"
    ], "a change of one profile changed another"


KEYS = (
    "platform", "server", "executor", "allow", "required_plugins", "policy.owners", "policy.benchmarks",
    "policy.images", "memory",
    "proxies.https", "time_limits.infer", "cpus", "processes", "gpus", "shm_size", "loglevel", "ca_bundle",
    "docker.host", "policy", ".",
)  # fmt: skip


def run_profile_keys(data: bytes, folder: Path) -> None:
    """``medperf profile set KEY VALUE``."""
    draw = Draw(data)
    home = _home(folder)
    home.config_file.unlink(missing_ok=True)
    store = ProfileStore(home)
    for _ in range(1 + draw.number(3)):
        key, value = (
            draw.text(KEYS),
            draw.text(("", "1", "a,b", "docker", "http://proxy:3128", "8g", "nan", "9" * 5000), 60),
        )
        try:
            made = store.set_text("default", key, value)
        except MedperfError:
            store.get("default")  # a refused change leaves a readable file
            continue
        assert store.get("default") == made, "it is kept as something else"


class _Keyring(SystemKeyring):
    """Has one entry, whatever it is asked for."""

    def __init__(self, entry: str) -> None:
        self._entry = entry

    def get(self, service: str, user: str) -> str:
        return self._entry


def run_records(data: bytes, folder: Path) -> None:
    """Outbox, test reports, credentials, the cache's and the steps' records, the version."""
    home = _home(folder)
    how, content = data[0] % 6 if data else 0, data[1:]
    match how:
        case 0:
            file = home.outbox_dir / f"{UUID}.json"
            file.write_bytes(content)
            for pending in Outbox(home).list():
                assert uuid.UUID(pending.client_uuid) == uuid.UUID(UUID)
        case 1:
            file = home.records_dir / "tests" / "0123456789abcdef.json"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
            found = Records(home).list()
            assert len(found.reports) + len(found.damaged) == 1
        case 2:
            # The same bytes as the file, and as the keyring's entry that a file notes.
            store = CredentialStore(home, keyring=lambda: _Keyring(content.decode("utf-8", "replace")))
            store.put("name", {"a": "b"})
            file = next(home.credentials_dir.glob("*.json"))
            file.write_bytes(content)
            assert all(isinstance(word, str) for pair in (store.get("name") or {}).items() for word in pair)
        case 3:
            cache = Cache(home.cache_dir)
            place = home.cache_dir / "files" / HASH[:2]
            place.mkdir(exist_ok=True)
            (place / HASH).write_bytes(b"not that")
            (place / f"{HASH}.json").write_bytes(content)
            assert cache.file(HASH) is None, "a file was trusted by a record"
        case 4:
            (folder / "step").mkdir(exist_ok=True)
            (folder / "step" / "step.json").write_bytes(content)
            assert _earlier(folder / "step") is None or content.count(b'"digest"') == 0
        case _:
            version = home.path / "version"
            kept = version.read_bytes()
            version.write_bytes(content)
            try:
                Home.open(home.path, environment={})
            finally:
                version.write_bytes(kept)


def _audit_seeds() -> Iterable[bytes]:
    # pinned here: the same lines as the program writes, so that the first inputs get through
    line = (
        b'{"action":"a","approved_by":"","event":"sending","n":1,"note":"","of":null,"prev":"'
        + b"0" * 64
        + b'","server":"s",'
        b'"sha256":"","size":0,"target":"t","time":"2024-01-01T00:00:00.000Z","user":"u"}'
    )
    yield line + b"\n"
    yield b'{"count":0,"head":"' + b"0" * 64 + b'"}\0' + line + b"\n"
    yield b"\0" + line[:40]
    yield b'{"count":1}\0'
    yield b"\0" + b"[" * 3000 + b"\n"
    yield b'{"count":' + b"9" * 5000 + b"}\0"


def _profile_seeds() -> Iterable[bytes]:
    yield (
        b"active: h\nprofiles:\n  h:\n    server: https://x.example\n    platform: docker\n    memory: 8g\n"
        b"    allow: [no-isolation]\n"
        b"    time_limits: {infer: 7200}\n    policy: {benchmarks: [3], owners: [a], images: []}\n"
        b"    backends: {docker: {host: x}}\n"
        b"    proxies: {https: 'http://p:1'}\n    gpus: all\n    cpus: 1.5\n    processes: 5\n"
    )
    for text in (
        "",
        "[]",
        "1",
        "profiles: []",
        "profiles: {a: }",
        "active: x",
        "a: &a [*a]",
        "1: 2",
        "profiles: {1: {}}",
        "? {}\n: 1",
    ):
        yield text.encode()
    yield b"profiles: {h: {backends: {a: {b: 2001-99-99}}}}"
    yield b"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n"


def _record_seeds() -> Iterable[bytes]:
    pending = {
        "client_uuid": UUID, "content_key": HASH, "action": "a", "target": "t", "route": "POST /x/", "body": "{}",
        "server": "s", "user": "u", "audit_entry": 1, "time": "t",
    }  # fmt: skip
    yield b"\0" + json.dumps(pending).encode()
    yield b"\1" + json.dumps({"uid": "0123456789abcdef", "created_at": "t", "steps": [], "results": {}}).encode()
    yield b'\2{"name": "name", "credentials": {"a": "b"}}'
    yield b'\2{"name": "name", "keyring": {"service": "medperf /home", "user": "name"}}'
    yield b'\2{"keyring": {"service": "medperf /home", "user": "name"}, "a": "b"}'
    yield b'\3{"looks": "100444 8 1 1 1"}'
    step = {
        "task": "infer",
        "container": "1",
        "images": [],
        "inputs": {},
        "engine": "e",
        "started": "t",
        "seconds": 1.0,
    }
    yield b"\x04" + json.dumps({"record": step, "outputs": {"output_path": {"path": "x", "digest": HASH}}}).encode()
    yield b"\x04" + json.dumps({"record": step, "outputs": []}).encode()
    yield b"\x05" + b"001"
    for how in range(6):
        yield bytes([how]) + b"[" * 3000
        yield bytes([how]) + b"9" * 5000


TARGETS = (
    Target(
        "audit",
        run_audit,
        _audit_seeds,
        ('"n":', '"prev":"', '"count":', '"head":"', "sending", "denied", "\n", "\0"),
        6000,
    ),
    Target("audit-tampered", run_tampered, lambda: [bytes(range(64)), b"\3\0\1\2\3", b""], longest=64),
    Target(
        "profiles", run_profiles, _profile_seeds, ("active:", "profiles:", *KEYS, "&a", "*a", "<<: ", "!!", "{", "[")
    ),
    Target("profile-keys", run_profile_keys, lambda: [bytes(range(64)), b"\1" * 40], KEYS, 256),
    Target("site-records", run_records, _record_seeds, ('"uid"', '"steps"', '"credentials"', '"looks"', UUID), 6000),
)
