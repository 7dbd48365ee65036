"""SIF files: hashed where they are and linked into the store, so that a large file is not there twice.

One that another account can write is copied instead.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import NotFoundError
from medperf_core.plugin import BackendContext, PreparedImage, StepFinished, StepStarted
from medperf_core.plugin.digest import file_digest
from medperf_core.plugin.identities import incomparable, require
from medperf_core.plugin.image_archive import progress
from medperf_singularity import sif as sif_format
from medperf_singularity import store
from medperf_singularity.config import ImageConfig
from medperf_singularity.files import require_room


def prepare(context: BackendContext, source: ImageSource, expected: Sequence[ImageIdentity]) -> PreparedImage:
    """Verify a SIF; see ``Runner.prepare``. Compared is the file's SHA-256."""
    wanted = [identity for identity in expected if identity.kind is IdentityKind.SIF]
    if expected and not wanted:
        raise incomparable(source, expected, (IdentityKind.SIF,))
    path = Path(source.location).absolute()
    try:
        real = path.resolve(strict=True)
        entry = store.linked(context, real)
        if entry is None:
            identity = ImageIdentity(IdentityKind.SIF, f"sha256:{_hash(context, real)}")
        else:
            identity = ImageIdentity(IdentityKind.SIF, f"sha256:{entry.record.sha256}")
    except OSError as error:
        raise NotFoundError(f"The SIF {path} cannot be read: {error.strerror}.") from error
    require(source, wanted, (identity,))

    def make(target: Path) -> ImageConfig:
        if _is_ours(real):
            target.symlink_to(real)
        else:  # its owner could change it between its verification and its use
            require_room(f"keep the image {real.name}", {target.parent: real.stat().st_size})
            shutil.copyfile(real, target)
        return sif_format.describe(target.resolve())

    if entry is None:
        entry = store.keep(context, identity, make)
    return entry.prepared((identity,), source)


def _is_ours(file: Path) -> bool:
    """Whether nobody but this account, its group and root can write a file."""
    status = file.stat()
    return status.st_uid in (0, os.geteuid()) and not status.st_mode & stat.S_IWOTH


def _hash(context: BackendContext, path: Path) -> str:
    what = f"Verifying {path.name}"
    context.emit(StepStarted(what))
    found = file_digest(path, progress(what, path.stat().st_size, context))
    context.emit(StepFinished(what))
    return found
