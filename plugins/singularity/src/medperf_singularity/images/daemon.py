"""Images of the local Docker daemon, asked over its socket; without Docker's SDK, which this runner does not need."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import ExecutionError, VerificationError
from medperf_core.plugin import BackendContext, StepFinished, StepStarted
from medperf_core.plugin.identities import DIGEST
from medperf_core.plugin.image_archive import progress, read
from medperf_core.plugin.image_reference import Reference
from medperf_singularity import store
from medperf_singularity.engine import Engine
from medperf_singularity.files import require_room
from medperf_singularity.images.archive import image_identities, keep_image

_SOCKETS = ("/run/docker.sock", "/var/run/docker.sock")
_ANSWER_LIMIT = 16 << 20
_SECONDS = 60
_EXPORT_SECONDS = 3600
_CHUNK = 1 << 20


class _Socket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@attrs.frozen
class Local:
    """An image that a local daemon has.

    Attributes:
        socket: path of the daemon's socket.
        id: its image ID.
        manifests: digests under which registries know it, as the daemon says.
        size: bytes, as the daemon says.
    """

    socket: str
    id: str
    manifests: frozenset[ImageIdentity]
    size: int


def find(docker_host: str, name: str) -> Local | None:
    """The image of this name, ID or digest in the local daemon; None if there is none or no daemon."""
    path = _socket(docker_host)
    if path is None:
        return None
    document = _ask(path, f"/images/{quote(name, safe='/:@')}/json")
    if document is None or not DIGEST.fullmatch(str(document.get("Id"))):
        return None
    digests = [str(each).rpartition("@")[2] for each in document.get("RepoDigests") or ()]
    size = document.get("Size")
    return Local(
        path,
        str(document["Id"]),
        frozenset(ImageIdentity(IdentityKind.MANIFEST, each) for each in digests if DIGEST.fullmatch(each)),
        size if isinstance(size, int) and size > 0 else 0,
    )


def keep(
    engine: Engine, context: BackendContext, local: Local, reference: Reference, source: ImageSource
) -> tuple[store.Entry, set[ImageIdentity]]:
    """The store's entry of an image of the daemon, converted if there is none, and what it verifiably is.

    In Docker's classic store the ID is the configuration's digest; an image that is in the store by it is not exported.
    """
    by_id = ImageIdentity(IdentityKind.CONFIG, local.id)
    names = [reference.local]
    entry = store.find(context, lambda record: by_id in record.identities)
    if entry is not None:
        known = {by_id} | local.manifests
        entry = store.keep(context, _kept_under(entry), _never, known, names)
        return entry, known
    with store.new_folder(context.temp_dir) as work:
        saved = work / "saved.tar"
        require_room(f"take the image {source} from Docker", {work: local.size})
        _export(context, local, saved)
        sha256, found = read(saved, context)
        if len({image.config for image in found}) != 1:
            raise VerificationError(f"Docker exported {len(found)} images for {source}.")
        image = found[0]
        known = {each for each in image_identities(image) if each.kind is IdentityKind.CONFIG} | local.manifests
        if local.id != image.config:  # the containerd store names images by their manifests
            known.add(ImageIdentity(IdentityKind.MANIFEST, local.id))
        return keep_image(engine, context, saved, sha256, image, source, known, names), known


def _kept_under(entry: store.Entry) -> ImageIdentity:
    return next(each for each in entry.record.identities if store.key_of(each) == entry.folder.name)


def _never(sif: Path) -> Any:
    raise ExecutionError(f"The cached image {sif.parent.name} vanished while it was used.", hint="Run it again.")


def _export(context: BackendContext, local: Local, target: Path) -> None:
    what = f"Taking the image {local.id[7:19]} from Docker"
    context.emit(StepStarted(what))
    connection = _Socket(local.socket, _EXPORT_SECONDS)
    told = progress(what, local.size, context)
    try:
        connection.request("GET", f"/images/{local.id}/get", headers={"Host": "docker"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise ExecutionError(f"Docker does not give the image {local.id}: it answered {answer.status}.")
        with target.open("wb") as stream:
            while piece := answer.read(_CHUNK):
                told(len(piece))
                stream.write(piece)
    except (OSError, http.client.HTTPException) as error:
        raise ExecutionError(f"Taking the image {local.id} from Docker failed: {error}.") from error
    finally:
        connection.close()
    context.emit(StepFinished(what))


def _ask(path: str, question: str) -> dict[str, Any] | None:
    connection = _Socket(path, _SECONDS)
    try:
        connection.request("GET", question, headers={"Host": "docker"})
        answer = connection.getresponse()
        data = answer.read(_ANSWER_LIMIT)
        found = json.loads(data) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None  # no daemon, or not for this user: the registry is asked
    finally:
        connection.close()
    return found if isinstance(found, dict) else None


def _socket(docker_host: str) -> str | None:
    if docker_host == "none":
        return None
    host = docker_host or os.environ.get("DOCKER_HOST", "")
    found = re.fullmatch(r"unix:/*(/.+)", host)
    if host:
        return found[1] if found else None
    return next((path for path in _SOCKETS if Path(path).is_socket()), None)


def wanted(expected: Sequence[ImageIdentity], reference: Reference) -> list[str]:
    """Names under which the daemon may have the image: the recorded ones; without a record, the reference's own."""
    if not expected:
        return [reference.local]
    digests = [each.digest for each in sorted(expected) if each.kind is IdentityKind.CONFIG]
    manifests = [reference.at(each.digest) for each in sorted(expected) if each.kind is IdentityKind.MANIFEST]
    return [*digests, *manifests, reference.local]
