"""Signature Version 4 of AWS, as S3 uses it: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, urlsplit

import attrs

ALGORITHM = "AWS4-HMAC-SHA256"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@attrs.frozen
class Key:
    """Credentials of S3.

    Attributes:
        token: of a session; "" if they are not of one.
    """

    access_key: str
    secret_key: str = attrs.field(repr=False)
    token: str = attrs.field(default="", repr=False)


def signed(
    key: Key,
    region: str,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body_sha256: str = EMPTY_SHA256,
    now: datetime | None = None,
) -> dict[str, str]:
    """``headers`` and those that sign the request with all of them.

    Args:
        url: with its path and query quoted already.
        body_sha256: hexadecimal; the server refuses another body.
        now: the time of the request, UTC.
    """
    parts = urlsplit(url)
    moment = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    all_headers = {**headers, "x-amz-content-sha256": body_sha256, "x-amz-date": moment}
    if key.token:
        all_headers["x-amz-security-token"] = key.token
    lower = {name.lower(): " ".join(value.split()) for name, value in all_headers.items()}
    lower["host"] = parts.netloc
    names = ";".join(sorted(lower))
    query = "&".join(
        f"{quote(name, safe='-._~')}={quote(value, safe='-._~')}"
        for name, value in sorted(parse_qsl(parts.query, keep_blank_values=True))
    )
    canonical = "\n".join(
        [method, parts.path or "/", query, *(f"{name}:{lower[name]}" for name in sorted(lower)), "", names, body_sha256]
    )
    text = "\n".join([ALGORITHM, moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    secret = f"AWS4{key.secret_key}".encode()
    for word in scope.split("/"):
        secret = hmac.digest(secret, word.encode(), "sha256")
    signature = hmac.digest(secret, text.encode(), "sha256").hex()
    all_headers["Authorization"] = (
        f"{ALGORITHM} Credential={key.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return all_headers
