"""Settings of the stores."""

from __future__ import annotations

import attrs

from medperf_core.plugin import setting


@attrs.frozen
class HttpSettings:
    """How patient the http store is."""

    connect_timeout: float = setting(15.0, "Seconds until a connection must stand.")
    read_timeout: float = setting(60.0, "Seconds that may pass without any byte.")
    attempts: int = setting(5, "How often a file is asked for before giving up.")
    pause: float = setting(1.0, "Seconds before the second attempt; doubled for each further one, up to 30.")
    connections: int = setting(4, "How many connections may fetch one large file, if one alone is slow.")
