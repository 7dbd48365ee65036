"""What commands say about waived guarantees."""

from __future__ import annotations

from collections.abc import Iterable

from medperf_core.cli.output import note
from medperf_core.plugin.isolation import NO_ISOLATION, WAIVERS


def say_waived(waivers: Iterable[str]) -> None:
    """Say once, for each guarantee that was waived, what that meant."""
    for waiver in sorted(set(waivers)):
        name = waiver.partition("=")[0]
        if name == NO_ISOLATION:
            note(
                "No isolation: nothing kept the containers' programs from this machine's files and network "
                f"(allowed by {waiver})."
            )
        else:
            meaning = WAIVERS.get(name)
            note(f"Waived: {waiver} ({meaning})." if meaning else f"Waived: {waiver}.")
