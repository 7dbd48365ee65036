"""Which loaded bundles a profile works from. Asked at each use, not only when one is loaded: a maker's key may no
longer be trusted, a waiver no longer given, the profile may be of another server by now."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import attrs

from medperf_core.errors import ConfigurationError
from medperf_core.plugin.isolation import UNSIGNED, Waiver
from medperf_core.site.bundles import BundleStore, LoadedBundle, same_subject, server_id
from medperf_core.site.profiles import Profile


@attrs.frozen
class Trusted:
    """What of a profile's bundles is used.

    Attributes:
        bundles: the newest first.
        left_out: a sentence for each other one.
    """

    bundles: tuple[LoadedBundle, ...]
    left_out: tuple[str, ...]


def allows_unsigned(waivers: Iterable[Waiver]) -> bool:
    """Whether bundles that nobody signed may be loaded and used; a waiver for one image says nothing of a bundle."""
    return any(waiver.name == UNSIGNED and waiver.image is None for waiver in waivers)


def trusted(store: BundleStore, name: str, profile: Profile, waivers: Collection[Waiver]) -> Trusted:
    """The loaded bundles of a profile that may be used now.

    Args:
        name: of the profile.

    Raises:
        ConfigurationError: they are of several servers, and the profile names none.
    """
    left_out = [
        f"The loaded bundle {each.name[:12]} is not used: {each.why}. Load it again, or: medperf bundle remove "
        f"{each.name[:12]}"
        for each in store.damaged(name)
    ]
    used: list[LoadedBundle] = []
    for bundle in store.list(name):
        why = _why_not(bundle, used, name, profile, waivers)
        if why:
            left_out.append(f"The loaded {bundle} is not used: {why}.")
        else:
            used.append(bundle)
    servers = sorted({bundle.index.server for bundle in used})
    if len(servers) > 1:
        raise ConfigurationError(
            f"The profile {name!r} names no server and has bundles of several ({', '.join(servers)}): the same UIDs "
            "mean other things there.",
            hint="Set the profile's server, or forget the bundles of the others: medperf bundle ls, then medperf "
            "bundle remove NAME",
        )
    return Trusted(tuple(used), tuple(left_out))


def _why_not(
    bundle: LoadedBundle, newer: Iterable[LoadedBundle], name: str, profile: Profile, waivers: Collection[Waiver]
) -> str:
    index = bundle.index
    if profile.server and server_id(profile.server) != index.server:
        return f"it is of the server {index.server}, and the profile {name!r} of another one"
    if not index.maker and not allows_unsigned(waivers):
        return f"nobody signed it. If you know where it comes from, add --allow {UNSIGNED}"
    if index.maker and index.maker not in profile.trusted_keys:
        return f"the profile {name!r} does not trust its maker's key (any more)"
    if any(same_subject(other.index, index) for other in newer):
        return "there is a newer one of the same maker for the same benchmark"
    return ""
