"""What images verifiably are, compared with what was recorded of them: the same rules for every engine."""

from __future__ import annotations

import re
from collections.abc import Iterable

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import VerificationError

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
"""An OCI digest; the only algorithm that is accepted."""


def agrees(expected: Iterable[ImageIdentity], known: Iterable[ImageIdentity]) -> bool:
    """Whether ``known`` satisfies ``expected``: some kind is in both, and each such kind has a digest in common.

    An image may have several digests of one kind (an index and a manifest); any of them will do.
    """
    wanted, have = set(expected), set(known)
    shared = {identity.kind for identity in wanted} & {identity.kind for identity in have}
    return bool(shared) and all(any(identity.kind is kind for identity in wanted & have) for kind in shared)


def require(source: ImageSource, expected: Iterable[ImageIdentity], known: Iterable[ImageIdentity]) -> None:
    """Refuse an image that is not what was recorded.

    Raises:
        VerificationError: it differs, or nothing of it can be compared.
    """
    wanted = set(expected)
    if wanted and not agrees(wanted, known):
        raise mismatch(source, wanted, known)


def mismatch(
    source: ImageSource, expected: Iterable[ImageIdentity], found: Iterable[ImageIdentity]
) -> VerificationError:
    """The error for an image that is not the recorded one."""
    wanted, have = sorted(set(expected)), sorted(set(found))
    if have and not {identity.kind for identity in wanted} & {identity.kind for identity in have}:
        return incomparable(source, wanted, {identity.kind for identity in have})
    text = ", ".join(map(str, have)) or "none of them"
    return VerificationError(
        f"The image {source} is not the recorded one: expected {', '.join(map(str, wanted))}, found {text}.",
        hint="It was changed after it was recorded, or another one was meant; nothing was run.",
    )


def incomparable(
    source: ImageSource, expected: Iterable[ImageIdentity], kinds: Iterable[IdentityKind]
) -> VerificationError:
    """The error for recorded identities that this kind of source does not have."""
    return VerificationError(
        f"The image {source} cannot be verified: recorded is {', '.join(map(str, sorted(expected)))}, but it can only "
        f"be compared by {' or '.join(sorted(kinds))}.",
        hint="Its owner has to record one of these.",
    )
