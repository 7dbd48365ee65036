"""Sandboxes: unpacked root file systems in a folder. Converted, because a folder can change while it is used."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import NotFoundError, VerificationError
from medperf_core.plugin import BackendContext, PreparedImage, StepFinished, StepStarted
from medperf_core.plugin.digest import file_digest
from medperf_core.plugin.identities import incomparable, require
from medperf_singularity import convert, store
from medperf_singularity.config import RUNSCRIPT, ImageConfig
from medperf_singularity.engine import Engine, architecture


def prepare(
    engine: Engine, context: BackendContext, source: ImageSource, expected: Sequence[ImageIdentity]
) -> PreparedImage:
    """Verify a sandbox and convert it, unless it is here as it is now; see ``Runner.prepare``.

    Compared is the digest of ``digest``, as a source identity. What is converted is a private copy that has it: what
    others change in the sandbox meanwhile, such as a link in the place of a file, reaches no image and no engine.
    """
    wanted = [identity for identity in expected if identity.kind is IdentityKind.SOURCE]
    if expected and not wanted:
        raise incomparable(source, expected, (IdentityKind.SOURCE,))
    folder = Path(source.location).absolute()
    if not (folder / "bin").exists() and not (folder / ".singularity.d").exists() and not (folder / "usr").exists():
        raise NotFoundError(
            f"{folder} is no root file system: it has neither bin nor usr.",
            hint="Name a SIF file, or a folder that `apptainer build --sandbox` made.",
        )
    refuse_links(folder)
    identity, size = digest(folder, context)
    require(source, wanted, (identity,))

    def make(sif: Path) -> ImageConfig:
        with store.new_folder(context.temp_dir) as work:
            command = ["cp", "-a", "--", str(folder), "rootfs"]
            convert.helper(command, engine, context, work, f"copy the sandbox {folder}", size)
            refuse_links(work / "rootfs")
            if digest(work / "rootfs", context)[0] != identity:
                raise VerificationError(f"The sandbox {folder} changed while it was copied.", hint="Run it again.")
            convert.build(engine, context, work, "rootfs", sif, str(source), size)
        return ImageConfig(
            entrypoint=(RUNSCRIPT,) if os.path.lexists(folder / RUNSCRIPT.lstrip("/")) else (),
            architecture=architecture(),
        )

    return store.keep(context, identity, make).prepared((identity,), source)


def refuse_links(folder: Path) -> None:
    """Refuse links, devices and pipes where the engine writes while it converts: it would follow them outside.

    Raises:
        VerificationError: there is one; names it.
    """
    own = folder / ".singularity.d"
    below = _below(os.fsencode(own)) if own.is_dir() and not own.is_symlink() else []
    for path in (
        own,
        *(Path(os.fsdecode(each)) for each in below),
        folder / "etc",
        folder / "etc" / "hosts",
        folder / "etc" / "resolv.conf",
        folder / "var",
    ):
        if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
            raise VerificationError(
                f"The sandbox {folder} has a symbolic link, device or pipe in the place of {path.relative_to(folder)}, "
                "through which its conversion could write outside.",
                hint="Replace the link by the file or folder itself, if you trust the sandbox.",
            )


def digest(folder: Path, context: BackendContext) -> tuple[ImageIdentity, int]:
    """The identity of a root file system, and the bytes of its files.

    SHA-256 over one line for each file, folder and link, in the order of their paths' bytes: type, permissions, path,
    and the content's SHA-256 or the link's target. Links may lead anywhere: they are the image's own. Owners are not
    part of it, because nobody but root could keep them. Source trees' own digest does not fit: it knows no permissions
    and refuses links that lead out.

    Raises:
        NotFoundError: something in it cannot be read.
    """
    what = f"Verifying {folder.name}"
    context.emit(StepStarted(what))
    lines, size = [], 0
    try:
        for path in _below(os.fsencode(folder)):
            context.cancel.raise_if_cancelled()
            status = os.lstat(path)
            kind, content = stat.S_IFMT(status.st_mode), b""
            if kind == stat.S_IFREG:
                content, size = file_digest(Path(os.fsdecode(path))).encode(), size + status.st_size
            elif kind == stat.S_IFLNK:
                content = os.fsencode(Path(os.fsdecode(path)).readlink())
            name = os.path.relpath(path, os.fsencode(folder))
            lines.append(
                (name, b"%o %o %d %s %d %s\n" % (kind, status.st_mode & 0o7777, len(name), name, len(content), content))
            )
    except OSError as error:
        raise NotFoundError(
            f"The sandbox {folder} cannot be read: {error.filename!r}: {error.strerror}.",
            hint="Use it as the account that made it, or convert it to a SIF there.",
        ) from error
    context.emit(StepFinished(what))
    whole = hashlib.sha256(b"".join(line for _, line in sorted(lines)))
    return ImageIdentity(IdentityKind.SOURCE, f"sha256:{whole.hexdigest()}"), size


def _below(folder: bytes) -> list[bytes]:
    found, folders = [], [folder]
    while folders:
        with os.scandir(folders.pop()) as listing:
            for item in listing:
                found.append(item.path)
                if item.is_dir(follow_symlinks=False):
                    folders.append(item.path)
    return found
