"""medperf-core: benchmarking medical AI where the data lives.

Programs that embed it hold a ``Site`` and call journeys with it; see ``docs/embedding.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medperf_core.site.approver import ApproveAll, Approver, DenyAll
    from medperf_core.site.options import SiteOptions
    from medperf_core.site.site import Site

_HOMES = {
    "ApproveAll": "medperf_core.site.approver",
    "Approver": "medperf_core.site.approver",
    "DenyAll": "medperf_core.site.approver",
    "Site": "medperf_core.site.site",
    "SiteOptions": "medperf_core.site.options",
}

__all__ = ["ApproveAll", "Approver", "DenyAll", "Site", "SiteOptions"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
