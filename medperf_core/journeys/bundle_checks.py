"""Whether a bundle may be loaded here: who made it, for which server, when, and whether it fits what is loaded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from medperf_core.errors import UsageError, VerificationError
from medperf_core.plugin.isolation import OLDER_BUNDLE, UNSIGNED
from medperf_core.site.bundle_file import Head
from medperf_core.site.bundle_index import BundleIndex, signer
from medperf_core.site.bundle_trust import allows_unsigned, trusted
from medperf_core.site.bundles import BundleStore, LoadedBundle, same_subject, server_id
from medperf_core.site.offline_server import OfflineServer
from medperf_core.site.site import Site

CLOCKS_DIFFER = timedelta(days=1)
"""By how much the clocks of two machines may differ."""


def check_maker(site: Site, path: Path, head: Head) -> str:
    """The fingerprint of a trusted maker; "" for an unsigned bundle that was allowed.

    Raises:
        VerificationError: it is not signed, or not by a maker whose key the profile trusts, or is not what was signed.
    """
    if head.signature is None:
        if not allows_unsigned(site.effective.waivers):
            raise VerificationError(
                f"The bundle {path} is not signed, so nobody knows who made it. Nothing of it was kept.",
                hint=f"If you know where it comes from, add --allow {UNSIGNED}.",
            )
        return ""
    found = signer(head.signature, head.index, str(path))
    if found not in site.profile.trusted_keys:
        known = ",".join((*site.profile.trusted_keys, found))
        raise VerificationError(
            f"The bundle {path} is signed by {found}, a key that the profile {site.profile_name!r} does not trust. "
            "Nothing of it was kept.",
            hint="Ask its maker on another way, such as by telephone, for the fingerprint that medperf site key prints "
            f"there. If it is this one: medperf profile set trusted_keys={known}",
        )
    return found


def check_server(site: Site, store: BundleStore, path: Path, index: BundleIndex) -> None:
    """Refuse a bundle of another server (UsageError) than the profile's or, if it names none, its bundles'."""
    own = server_id(site.profile.server) if site.profile.server else None
    others = set() if own else {bundle.index.server for bundle in store.list(site.profile_name)}
    if own not in (None, index.server) or others - {index.server}:
        raise UsageError(
            f"The bundle {path} is of the server {index.server}, but the profile {site.profile_name!r} is of "
            f"{own or ', '.join(sorted(others))}: the same UIDs mean other things there.",
            hint="Load it into a profile of its own: medperf profile create NAME, then medperf --profile NAME bundle "
            "load FILE",
        )


def check_time(site: Site, store: BundleStore, path: Path, index: BundleIndex) -> bool:
    """Whether it is older than the one that it would replace, which was allowed.

    Raises:
        VerificationError: it is older and that was not allowed, or its time has not come yet.
    """
    now = datetime.now(UTC)
    if index.made > now + CLOCKS_DIFFER:
        raise VerificationError(
            f"The bundle {path} says that it was made on {index.created_at}, but here it is "
            f"{now.isoformat(timespec='seconds')}. Nothing of it was kept.",
            hint="If the clock of this machine is wrong, set it; else ask the maker, whose clock may have been wrong.",
        )
    newer = [
        known
        for known in store.list(site.profile_name)
        if same_subject(known.index, index) and known.index.made > index.made
    ]
    if newer and OLDER_BUNDLE not in {waiver.name for waiver in site.effective.waivers if waiver.image is None}:
        raise VerificationError(
            f"The bundle {path} was made on {index.created_at}. A newer one of the same maker for benchmark "
            f"{index.benchmark} was loaded already, made on {newer[0].index.created_at}: what it no longer has, such "
            "as a container that was withdrawn, would come back. Nothing of it was kept.",
            hint=f"If you do want to go back to it, add --allow {OLDER_BUNDLE}.",
        )
    return bool(newer)


def check_others(site: Site, store: BundleStore, path: Path, new: LoadedBundle) -> None:
    """Refuse (VerificationError) what says something else than other makers whose bundles are used here."""
    used = trusted(store, site.profile_name, site.profile, site.effective.waivers).bundles
    others = [bundle for bundle in used if not same_subject(bundle.index, new.index)]
    try:
        OfflineServer("", sorted([*others, new], key=lambda bundle: bundle.index.made, reverse=True)).check()
    except VerificationError as error:
        raise VerificationError(
            f"The bundle {path} does not fit what was loaded: {error.message} Nothing of it was kept.", hint=error.hint
        ) from error
