"""A person known to a server."""

from __future__ import annotations

from typing import Any

import attrs

from medperf_core.entities import checks


@attrs.frozen(kw_only=True)
class User:
    """A user as servers show them.

    Attributes:
        id: the server UID.
        username: unique on the server.
        email: may be blank.
        is_admin: whether the server lets this user approve benchmarks.
    """

    id: int | None = attrs.field(default=None, validator=checks.uid)
    username: str = attrs.field(validator=checks.text(150, blank=False))
    email: str = attrs.field(default="", validator=checks.text(254))
    first_name: str = attrs.field(default="", validator=checks.text(150))
    last_name: str = attrs.field(default="", validator=checks.text(150))
    metadata: dict[str, Any] = attrs.field(factory=dict, validator=checks.json_value)
    is_admin: bool = False
