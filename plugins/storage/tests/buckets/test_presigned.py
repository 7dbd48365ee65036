"""Presigned addresses of private objects: they open them for a while, by https, and are shown to nobody."""

from __future__ import annotations

import hashlib
import hmac
import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import attrs
import pytest

from medperf_core.errors import TransferError
from medperf_storage.expiry import ended, expiry
from medperf_storage.http import HttpStorage
from medperf_storage.settings import HttpSettings

HOST = "s3.hospital.example"
CONTENT = b"p" * 300_000


def presigned(bucket: Any, key: str, begin: datetime, seconds: int) -> str:
    """An address as owners hand it out: Signature Version 4 in the query, of Ceph behind ``HOST``."""
    day, stamp = f"{begin:%Y%m%d}", f"{begin:%Y%m%dT%H%M%SZ}"
    scope = f"{day}/us-east-1/s3/aws4_request"
    words = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{bucket.credentials['access_key_id']}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
    }
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(words.items()))
    path = f"/{bucket.name}/{quote(key)}"
    request = "\n".join(["GET", path, query, f"host:{HOST}", "", "host", "UNSIGNED-PAYLOAD"])
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    secret = f"AWS4{bucket.credentials['secret_access_key']}".encode()
    for word in scope.split("/"):
        secret = hmac.digest(secret, word.encode(), "sha256")
    return f"https://{HOST}{path}?{query}&X-Amz-Signature={hmac.digest(secret, text.encode(), 'sha256').hex()}"


@pytest.fixture
def store(s3_bucket: Any, person: Any, proxy: Any, tls_front: Any, named_tls: Any) -> HttpStorage:
    s3_bucket.put("a b/presigned.bin", CONTENT)
    proxy.tunnel_to = tls_front(s3_bucket.server, HOST).server_port
    context = attrs.evolve(person.context, proxies={"https": proxy.url}, ca_bundle=named_tls.pem)
    return HttpStorage(HttpSettings(attempts=1), context)


def test_it_opens_a_private_object(
    store: HttpStorage, s3_bucket: Any, person: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    url = presigned(s3_bucket, "a b/presigned.bin", datetime.now(UTC), 60)
    person.fetch(store, url)
    assert person.sink.data == CONTENT
    with pytest.raises(TransferError, match="answered 403"):
        person.fetch(store, url.partition("?")[0])
    assert "Signature" not in f"{person.events}{caplog.text}{store.redact(url)}"


def test_one_whose_time_is_over(
    store: HttpStorage, s3_bucket: Any, person: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    begin = datetime.now(UTC) - timedelta(hours=2)
    url = presigned(s3_bucket, "a b/presigned.bin", begin, 60)
    with pytest.raises(TransferError, match=r"answered 403.*was good until 20.* UTC only") as caught:
        person.fetch(store, url)
    signature = urlsplit(url).query.rpartition("=")[2]
    assert signature not in f"{caught.value}{caught.value!r}{person.events}{caplog.text}"


def test_a_wrong_signature_is_not_called_over(store: HttpStorage, s3_bucket: Any, person: Any) -> None:
    url = presigned(s3_bucket, "a b/presigned.bin", datetime.now(UTC), 60)
    with pytest.raises(TransferError, match="answered 403") as caught:
        person.fetch(store, url.replace("presigned", "other"))
    assert "was good until" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "when"),
    [
        ("X-Amz-Date=20240102T030405Z&X-Amz-Expires=60", datetime(2024, 1, 2, 3, 5, 5, tzinfo=UTC)),
        ("X-Goog-Date=20240102T030405Z&X-Goog-Expires=60", datetime(2024, 1, 2, 3, 5, 5, tzinfo=UTC)),
        ("AWSAccessKeyId=a&Signature=b&Expires=1704164705", datetime(2024, 1, 2, 3, 5, 5, tzinfo=UTC)),
        ("GoogleAccessId=a&Signature=b&Expires=1704164705", datetime(2024, 1, 2, 3, 5, 5, tzinfo=UTC)),
        ("se=2024-01-02T03%3A05%3A05Z&sig=b", datetime(2024, 1, 2, 3, 5, 5, tzinfo=UTC)),
        ("se=2024-01-02&sig=b", datetime(2024, 1, 2, tzinfo=UTC)),
        ("", None),
        ("Expires=1704164705", None),
        ("X-Amz-Date=x&X-Amz-Expires=60", None),
        ("X-Amz-Expires=60", None),
        ("X-Amz-Date=20240102T030405Z&X-Amz-Expires=" + "9" * 5000, None),
        ("Signature=b&Expires=" + "9" * 30, None),
    ],
)
def test_until_when_an_address_is_good(query: str, when: datetime | None) -> None:
    url = f"https://host/file?{query}"
    assert expiry(url) == when
    assert bool(ended(url)) == bool(when)


def test_one_that_is_good_still_has_not_ended() -> None:
    now = datetime.now(UTC)
    assert not ended(f"https://host/file?X-Amz-Date={now:%Y%m%dT%H%M%SZ}&X-Amz-Expires=60")
