"""Images written to files, as ``docker save`` does, by ID: no name goes along."""

from __future__ import annotations

from io import FileIO
from pathlib import Path

from medperf_core.entities.image import IdentityKind
from medperf_core.errors import ExecutionError, VerificationError
from medperf_core.plugin import BackendContext, PreparedImage, Progress, StepFinished, StepStarted
from medperf_core.plugin.digest import CHUNK
from medperf_core.plugin.image_archive import read
from medperf_docker.connect import Connection

FILE = "image.tar"


def save(connection: Connection, context: BackendContext, prepared: PreparedImage, folder: Path) -> Path:
    """Write an image and check that what was written is it; see ``Runner.save``.

    Raises:
        VerificationError: the daemon wrote another image.
        ExecutionError: it could not write it, or there is no room.
    """
    target, doing = folder / FILE, f"save the image {prepared.source}"
    what = f"Saving {prepared.source}"
    context.emit(StepStarted(what))
    try:
        # Without a buffer, which would be written when the file is closed, and fail there once more on a full disk.
        with target.open("xb", buffering=0) as stream, connection.client(doing, patient=True) as client:
            done = told = 0
            for piece in client.get_image(prepared.reference, chunk_size=CHUNK):
                context.cancel.raise_if_cancelled()
                _write(stream, piece, target)
                done += len(piece)
                if done - told > 32 * CHUNK:
                    told = done
                    context.emit(Progress(what, done))
        _check(target, context, prepared)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    context.emit(StepFinished(what))
    return target


def _write(stream: FileIO, piece: bytes, target: Path) -> None:
    """Write a piece; an error of the disk is not taken for one of the daemon."""
    left = memoryview(piece)
    try:
        while left:
            left = left[stream.write(left) :]
    except OSError as error:
        raise ExecutionError(
            f"{target} cannot be written: {error.strerror}.", hint="Free some room on that disk, then try again."
        ) from error


def _check(target: Path, context: BackendContext, prepared: PreparedImage) -> None:
    """The configuration in the file must be one that was verified, where the image is known by it."""
    _, found = read(target, context)
    wanted = {each.digest for each in prepared.identities if each.kind is IdentityKind.CONFIG}
    if wanted and not wanted & {image.config for image in found}:
        raise VerificationError(
            f"Docker saved something else than the image {prepared.reference}.",
            hint="The image was changed meanwhile; run the command again.",
        )
