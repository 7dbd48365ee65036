"""Files of ``docker save``, and OCI layouts in a tar file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.plugin import BackendContext, PreparedImage
from medperf_core.plugin.archive_memory import read_archive
from medperf_core.plugin.identities import incomparable, require
from medperf_core.plugin.image_archive import Image, choose
from medperf_singularity import convert, layout, store
from medperf_singularity.config import ImageConfig
from medperf_singularity.engine import Engine, architecture


def prepare(
    engine: Engine, context: BackendContext, source: ImageSource, expected: Sequence[ImageIdentity]
) -> PreparedImage:
    """Verify a saved image and convert it, unless this image is here already; see ``Runner.prepare``.

    Compared are the file's SHA-256 and the configuration's digest. Manifest digests are compared only where neither
    is recorded, because saving an image makes a new manifest.
    """
    path = Path(source.location).absolute()
    sha256, found = read_archive(path, context)
    kinds = {identity.kind for identity in expected}
    strong = [identity for identity in expected if identity.kind in (IdentityKind.ARCHIVE, IdentityKind.CONFIG)]
    if expected and not strong and IdentityKind.MANIFEST not in kinds:
        raise incomparable(source, expected, (IdentityKind.ARCHIVE, IdentityKind.CONFIG))
    image = choose(source, found, expected, architecture())
    known = {ImageIdentity(IdentityKind.ARCHIVE, f"sha256:{sha256}")} | image_identities(image)
    require(
        source, strong or expected, {each for each in known if not strong or each.kind is not IdentityKind.MANIFEST}
    )
    entry = keep_image(engine, context, path, sha256, image, source, known)
    return entry.prepared(known, source)


def image_identities(image: Image) -> set[ImageIdentity]:
    """What an image in an archive is by what was read of it."""
    manifests = {ImageIdentity(IdentityKind.MANIFEST, each) for each in image.manifests if not image.saved}
    return {ImageIdentity(IdentityKind.CONFIG, image.config)} | manifests


def keep_image(
    engine: Engine,
    context: BackendContext,
    path: Path,
    sha256: str,
    image: Image,
    source: ImageSource,
    known: set[ImageIdentity],
    names: Sequence[str] = (),
) -> store.Entry:
    """The store's entry of an image in an archive that was read; converted if there is none."""
    config = ImageConfig.read_oci(image.document, str(source))

    def make(sif: Path) -> ImageConfig:
        with store.new_folder(context.temp_dir) as work:
            unpacked = layout.from_archive(path, sha256, image, work, source, context).unpacked
            convert.build(engine, context, work, "oci:layout", sif, str(source), unpacked)
        return config

    return store.keep(context, ImageIdentity(IdentityKind.CONFIG, image.config), make, known, names)
