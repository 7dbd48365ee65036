"""The place that a container is published to: looked at before any work begins."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from medperf_core.errors import OfflineError, UsageError
from medperf_core.journeys.containers import LocalContainer
from medperf_core.plugin.storage import Storage
from medperf_core.site.fetch import blank_hint, local_file
from medperf_core.site.site import Site

MAX_ADDRESS = 256
"""Characters of an address that the entities allow."""
_FORMS = "Write gs://BUCKET/PREFIX, s3://BUCKET/PREFIX or file:///FOLDER."


@attrs.frozen
class Place:
    """A folder in a store that takes uploads.

    Attributes:
        shown: its address without secrets.
    """

    store: Storage
    scheme: str
    shown: str
    _folder: str

    def target(self, sha256: str, name: str) -> str:
        """The address of a file in it.

        Raises:
            UsageError: no server would keep it, or its https address.
            TransferError: the store takes nothing there.
        """
        target = f"{self._folder}/{sha256}/{name}"
        if max(len(target), len(self.store.public_url(target) or "")) > MAX_ADDRESS:
            raise UsageError(
                f"The address of {name} below {self.shown} would be too long: servers keep at most {MAX_ADDRESS} "
                "characters.",
                hint="Choose a shorter prefix.",
            )
        return target


def place_for(site: Site, local: LocalContainer, to: str, sha256: str, name: str) -> Place:
    """The place that an address names.

    Args:
        to: as it was typed.
        sha256, name: of a file that is to be uploaded there; the store is asked about it.

    Raises:
        UsageError: it is no address of a folder, or one that could not be registered.
        TransferError: nothing can be uploaded there: such as to a bucket that is not there.
        DeniedError: it lies in a folder of data.
        OfflineError: it needs a connection, while working offline.
    """
    scheme = scheme_of(to)
    store = site.storage(scheme)
    _check_form(to, scheme, store)
    if site.effective.offline and scheme != "file":
        raise OfflineError("Offline: publishing needs a connection.", hint="Run it without --offline.")
    if scheme == "file" and not site.server.trusted_addresses:
        raise UsageError(
            f"{to} is a place of this machine, which nobody else can fetch from, so it cannot be registered.",
            hint="Publish to gs:// or s3://.",
        )
    place = Place(store, scheme, store.redact(to), to.rstrip("/"))
    target = place.target(sha256, name)
    if (path := local_file(target)) is not None:
        _check_folder(site, local, path)
    store.look(target)
    return place


def scheme_of(address: str) -> str:
    """The scheme of an address that could be registered.

    Raises:
        UsageError: it has none, or what no address has.
    """
    scheme, colon, _ = address.partition(":")
    if any(ord(char) < 33 or ord(char) == 127 for char in address) or "\\" in address:
        raise UsageError(
            f"{address!r} has a blank, a backslash or a control character, and so would the addresses to register.",
            hint=blank_hint(address),
        )
    if not colon or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise UsageError(f"{address!r} is not an address of a store.", hint=_FORMS)
    return scheme


def _check_form(to: str, scheme: str, store: Storage) -> None:
    try:
        parts = urlsplit(to)
    except ValueError:
        raise UsageError(f"What --to names cannot be read as an address of {scheme}:.", hint=_FORMS) from None
    # a secret key may have slashes, behind which a login no longer looks like one
    if "@" in parts.netloc or (":" in parts.netloc and "@" in parts.path):
        raise UsageError(
            f"The {scheme}: address to publish to holds a login, which everybody would see in what is registered.",
            hint=f"Leave it out. To store credentials for this site: medperf auth store {scheme}",
        )
    if "?" in to or "#" in to:
        raise UsageError(
            f"{store.redact(to)} has something behind it that begins with '?' or '#', but is to be a folder, and what "
            "stands there would be registered for everybody to see.",
            hint=_FORMS,
        )
    if not to.partition(":")[2].strip("/"):
        raise UsageError(f"{to!r} names no bucket and no folder.", hint=_FORMS)
    if scheme == "file" and not to.startswith("file:/"):
        raise UsageError(f"{to!r} does not name a folder by its full path.", hint="Write file:///FULL/PATH.")


def _check_folder(site: Site, local: LocalContainer, path: Path) -> None:
    site.data_folders.refuse([path], "used to publish to")
    real = path.resolve()
    own = [local.path.parent, *([Path(local.spec.project)] if local.spec.project else [])]
    for folder in own:
        if real.is_relative_to(folder.resolve()):
            raise UsageError(
                f"{path.parent.parent} lies in {folder}, which is the container's own folder.",
                hint="Publish to a folder outside of it.",
            )
