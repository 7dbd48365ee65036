"""When an address that carries its own permission ends, as far as its query tells: presigned addresses of the clouds.

S3: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html, and ``Expires`` of version 2;
Google: https://cloud.google.com/storage/docs/access-control/signed-urls; Azure: ``se`` of shared access signatures.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

_STAMP = "%Y%m%dT%H%M%SZ"


def expiry(url: str) -> datetime | None:
    """Until when an address is good, UTC; None if it does not tell."""
    try:
        query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
        for cloud in ("x-amz", "x-goog"):
            if f"{cloud}-expires" in query:
                begin = datetime.strptime(query[f"{cloud}-date"], _STAMP).replace(tzinfo=UTC)
                return begin + timedelta(seconds=int(query[f"{cloud}-expires"]))
        if "signature" in query and "expires" in query:
            return datetime.fromtimestamp(int(query["expires"]), UTC)
        if "sig" in query and "se" in query:
            found = datetime.fromisoformat(query["se"])
            return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, KeyError, OverflowError, OSError):
        pass
    return None


def ended(url: str) -> str:
    """A hint for who was refused at an address whose time is over; "" for all others."""
    found = expiry(url)
    if found is None or found > datetime.now(UTC):
        return ""
    return f"The address was good until {found:%Y-%m-%d %H:%M} UTC only; ask its owner for a new one."
