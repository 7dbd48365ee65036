"""A profile's own policy: owners, benchmarks and images that this site allows, with no plugin at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from medperf_core.errors import DeniedError
from medperf_core.plugin.policy import Action, PolicySubject

if TYPE_CHECKING:
    from medperf_core.site.profiles import PolicyRules


def check_policy(rules: PolicyRules, action: Action, subject: PolicySubject) -> None:
    """Raises DeniedError if the rules do not allow an action."""
    if action is Action.SEND:
        _check_rule("benchmark", rules.benchmarks, [subject.benchmark] if subject.benchmark else None, subject)
        return
    _check_rule("owner", rules.owners, [subject.owner or "unknown"], subject)
    _check_rule("benchmark", rules.benchmarks, [subject.benchmark or "none"], subject)
    # before an image is here, only identities that were recorded for it are known
    known = subject.images if subject.images or action is Action.RUN else None
    _check_rule("image", rules.images, known, subject, verified=action is Action.RUN)


def _check_rule(
    name: str,
    allowed: Iterable[Any] | None,
    found: Iterable[Any] | None,
    subject: PolicySubject,
    *,
    verified: bool = False,
) -> None:
    """Deny unless something that was found is allowed; None on either side means that there is nothing to check.

    Args:
        verified: what was found are identities that were verified here.
    """
    if allowed is None or found is None:
        return
    have = list(map(str, found))
    if not set(map(str, allowed)) & set(have):
        hint = "The site's list is under policy in: medperf profile view"
        if verified and have:
            wanted = ",".join([*map(str, allowed), have[0]])
            hint += (
                ". These are all identities that the image verifiably has here. If it is the one that you mean, one of "
                f"them suffices: medperf profile set policy.images={wanted}"
            )
        raise DeniedError(
            f"This profile's policy does not allow {subject.what}: "
            f"{name} {', '.join(have) or 'unknown'} is not listed.",
            hint=hint,
        )
