"""Images as this runner keeps them: one folder each, with the SIF and a record of what it verifiably is.

An entry is made under a lock, appears by one rename, and is checked before every use: the SIF's SHA-256 must be the
recorded one, unless the file system says that the file is untouched since it was hashed. What fails is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
from filelock import FileLock, Timeout

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import ExecutionError, VerificationError
from medperf_core.plugin import BackendContext, Notice, PreparedImage, StepFinished, StepStarted
from medperf_core.plugin.digest import file_digest
from medperf_core.plugin.image_archive import progress
from medperf_core.plugin.kept import keeping, note_use, write_sums
from medperf_core.plugin.processes import is_orphan, machine, new_marker
from medperf_core.plugin.supervise import end_orphans
from medperf_singularity.config import ImageConfig
from medperf_singularity.engine import plugin_cache
from medperf_singularity.files import Fingerprint, remove_tree

SIF = "image.sif"
RECORD = "record.json"
NEW = "medperf-new-"
"""Begins the names of folders that are being made; the machine and the marker of who makes them follow."""
SYSTEM_TEMP = Path("/var/tmp")  # noqa: S108
"""For private folders of unforeseeable names, where the site's own folders have names that engines misread."""
VERSION = 1
_RECORD_LIMIT = 4 << 20
_LOCK_POLL = 0.2
_KEY = re.compile(r"(?:config|manifest|archive|sif|source)-[0-9a-f]{64}")


@attrs.frozen
class Record:
    """What is known of an entry.

    Attributes:
        sha256: hexadecimal, of the SIF.
        fingerprint: of the SIF when it was hashed.
        identities: of the image that the SIF was made from, each verified when it was added.
        names: registry references under which it came; hints for finding it offline, never believed.
        config: how it is run.
        size: bytes of the SIF.
    """

    sha256: str
    fingerprint: Fingerprint
    identities: frozenset[ImageIdentity]
    names: frozenset[str]
    config: ImageConfig
    size: int

    def dump(self) -> bytes:
        return json.dumps(
            {
                "version": VERSION,
                "sha256": self.sha256,
                "fingerprint": attrs.astuple(self.fingerprint),
                "identities": sorted(map(str, self.identities)),
                "names": sorted(self.names),
                "config": self.config.to_json(),
                "size": self.size,
            },
            indent=1,
        ).encode()

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read a record; ValueError or OSError if it is none."""
        with path.open("rb") as stream:
            data = stream.read(_RECORD_LIMIT + 1)
        if len(data) > _RECORD_LIMIT:
            raise ValueError("it is larger than any record")
        try:
            found = json.loads(data)
            if found["version"] != VERSION or not re.fullmatch(r"[0-9a-f]{64}", found["sha256"]):
                raise ValueError("it is of another version")
            return cls(
                found["sha256"],
                Fingerprint(*map(int, found["fingerprint"])),
                frozenset(ImageIdentity.parse(text) for text in found["identities"]),
                frozenset(map(str, found["names"])),
                ImageConfig.from_json(found["config"]),
                int(found["size"]),
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"it has another form: {error!r}") from error
        except Exception as error:
            raise ValueError(str(error)) from error


@attrs.frozen
class Entry:
    """A verified image in the store."""

    folder: Path
    record: Record

    @property
    def sif(self) -> Path:
        return self.folder / SIF

    def prepared(self, identities: Iterable[ImageIdentity], source: ImageSource) -> PreparedImage:
        """The image as the core gets it, with what it verifiably is for this source."""
        config = self.record.config
        return PreparedImage(
            str(self.sif),
            tuple(sorted(set(identities))),
            source,
            (*config.entrypoint, *config.cmd),
            architecture=config.architecture or None,
            size=self.record.size or None,
        )


def root(context: BackendContext) -> Path:
    """The store's folder; made if it is not there."""
    folder = plugin_cache(context) / "images"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def key_of(identity: ImageIdentity) -> str:
    """Name of the folder of an image that is kept under this identity."""
    return f"{identity.kind.value}-{identity.digest.removeprefix('sha256:')}"


def keep(
    context: BackendContext,
    identity: ImageIdentity,
    make: Callable[[Path], ImageConfig],
    known: Iterable[ImageIdentity] = (),
    names: Iterable[str] = (),
) -> Entry:
    """The entry of an image; made if there is none, by one process at a time.

    Args:
        identity: under which it is kept, verified by the caller.
        make: writes the SIF (or a link to one) to the path that it gets.
        known: more identities of the same image, verified.
        names: registry references under which it came.
    """
    known, names = frozenset((identity, *known)), frozenset(names)
    folder = root(context) / key_of(identity)
    with _locked(context, folder.name):
        entry = _checked(context, folder)
        if entry is None:
            entry = _make(context, folder, make, known, names)
        elif not (known <= entry.record.identities and names <= entry.record.names):
            record = attrs.evolve(
                entry.record, identities=entry.record.identities | known, names=entry.record.names | names
            )
            _write(folder, record)
            entry = Entry(folder, record)
    return entry


def find(context: BackendContext, wanted: Callable[[Record], bool]) -> Entry | None:
    """A verified entry whose record satisfies ``wanted``; None if there is none."""
    for folder in sorted(root(context).iterdir()):
        if not _KEY.fullmatch(folder.name):
            continue
        try:
            fits = wanted(Record.load(folder / RECORD))
        except (OSError, ValueError):
            continue
        if fits:
            with _locked(context, folder.name):
                entry = _checked(context, folder)
            if entry is not None and wanted(entry.record):
                return entry
    return None


def forget_name(context: BackendContext, name: str, except_for: ImageIdentity) -> None:
    """No entry but that of one image is found by this name any more."""
    for folder in sorted(root(context).iterdir()):
        if not _KEY.fullmatch(folder.name) or folder.name == key_of(except_for):
            continue
        with _locked(context, folder.name):
            try:
                record = Record.load(folder / RECORD)
            except (OSError, ValueError):
                continue  # it is checked when it is used
            if name in record.names:
                _write(folder, attrs.evolve(record, names=record.names - {name}))


def linked(context: BackendContext, file: Path) -> Entry | None:
    """The verified entry of a SIF elsewhere that was linked here before; None if there is none or it changed."""
    for folder in sorted(root(context).glob(f"{IdentityKind.SIF.value}-*")):
        sif = folder / SIF
        if sif.is_symlink() and sif.readlink() == file:
            with _locked(context, folder.name):
                entry = _checked(context, folder)
            if entry is not None:
                return entry
    return None


def describe(context: BackendContext, prepared: PreparedImage) -> ImageConfig:
    """How a prepared image is run; see ``present``."""
    return present(context, prepared).config


def present(context: BackendContext, prepared: PreparedImage) -> Record:
    """The record of a prepared image. Verifies it once more, so that what is used now is what was prepared.

    Raises:
        ExecutionError: it is no longer in the store.
        VerificationError: it was changed meanwhile; it is removed.
    """
    sif = Path(prepared.reference)
    folder = root(context) / sif.parent.name
    if sif != folder / SIF or not _KEY.fullmatch(folder.name):
        raise ExecutionError(
            f"{prepared.reference[:200]!r} is no prepared image; only prepared images are run or saved."
        )
    gone = not (folder / RECORD).exists()
    with _locked(context, folder.name):
        entry = _checked(context, folder)
    if entry is None and gone:
        raise ExecutionError(
            f"The image of {prepared.source} is no longer in the cache.", hint="Run the command again: it is made anew."
        )
    if entry is None or not entry.record.identities >= set(prepared.identities):
        raise VerificationError(
            f"The image of {prepared.source} was changed after it was prepared; it was removed and nothing was run.",
            hint="Run the command again: it is made anew.",
        )
    return entry.record


def remove_leftovers(context: BackendContext) -> int:
    """Remove what conversions of this machine that were killed left behind; how many folders that were.

    What other machines are making in the same folders, or programs that still run, is not touched.
    """
    end_orphans()
    removed = 0
    for place in (root(context), context.temp_dir, SYSTEM_TEMP):
        for folder in place.glob(f"{NEW}{machine()}.*") if place.is_dir() else ():
            marker = folder.name.removeprefix(NEW).partition(".")[2]
            if is_orphan(marker) and folder.lstat().st_uid == os.geteuid():
                remove_tree(folder)
                removed += 1
    if removed:
        context.emit(Notice(f"Removed {removed} folders that an image conversion had left when it was killed."))
    return removed


@contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """A private folder for work in hand; removed at the end, or by a later program if this one is killed."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = place / f"{NEW}{machine()}.{new_marker()}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove_tree(folder)


def _make(
    context: BackendContext,
    folder: Path,
    make: Callable[[Path], ImageConfig],
    known: frozenset[ImageIdentity],
    names: frozenset[str],
) -> Entry:
    with new_folder(folder.parent) as new:
        sif = new / SIF
        config = make(sif)
        before = Fingerprint.of(sif)
        sha256 = _hash(context, sif, folder.name)
        if Fingerprint.of(sif) != before:
            raise VerificationError(f"The image file {sif} changed while it was read.", hint="Run the command again.")
        claimed = {identity.digest for identity in known if identity.kind is IdentityKind.SIF}
        if claimed and claimed != {f"sha256:{sha256}"}:
            raise VerificationError(f"The image file {sif.resolve()} changed while it was read.", hint="Run it again.")
        record = Record(sha256, before, known, names, config, before.size)
        _write(new, record)
        write_sums(new, {SIF: sha256})
        context.cancel.raise_if_cancelled()
        new.rename(folder)
        return Entry(folder, record)


def _checked(context: BackendContext, folder: Path) -> Entry | None:
    """The entry in a folder if it is whole; otherwise the folder is removed."""
    with keeping(folder.parent):  # so that what is about to be used is not freed
        if not folder.exists():
            return None
        note_use(folder)
    try:
        record = Record.load(folder / RECORD)
        now = Fingerprint.of(folder / SIF)
        if now != record.fingerprint:
            if _hash(context, folder / SIF, folder.name) != record.sha256 or Fingerprint.of(folder / SIF) != now:
                raise ValueError("its bytes are others")
            record = attrs.evolve(record, fingerprint=now)
            _write(folder, record)
        if folder.name not in {key_of(identity) for identity in record.identities}:
            raise ValueError("it is another image")
    except (OSError, ValueError) as error:
        context.emit(Notice(f"The cached image {folder.name} is damaged ({error}) and was removed.", "warning"))
        remove_tree(folder)
        return None
    return Entry(folder, record)


def _hash(context: BackendContext, path: Path, name: str) -> str:
    what = f"Verifying the image {name[:24]}"
    context.emit(StepStarted(what))
    found = file_digest(path, progress(what, path.stat().st_size, context))
    context.emit(StepFinished(what))
    return found


def _write(folder: Path, record: Record) -> None:
    part = folder / f"{RECORD}.part"
    part.write_bytes(record.dump())
    part.replace(folder / RECORD)


@contextmanager
def _locked(context: BackendContext, name: str) -> Iterator[None]:
    locks = plugin_cache(context) / "locks"
    locks.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(locks / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.lock")
    told = False
    while True:
        context.cancel.raise_if_cancelled()
        try:
            lock.acquire(timeout=_LOCK_POLL)
            break
        except Timeout:
            if not told:
                told = True
                context.emit(Notice("Another medperf is working on this image; waiting for it."))
    try:
        yield
    finally:
        lock.release()
