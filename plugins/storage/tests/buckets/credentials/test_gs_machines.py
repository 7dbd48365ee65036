"""Tokens of the metadata service of instances and clusters of Google, and tokens that end in mid-transfer."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import pytest

from medperf_core.errors import TransferError

BIG = os.urandom((66 << 20) + 5)
MIB = 1 << 20
FLAVOUR = {"Metadata-Flavor": "Google", "Content-Type": "application/json"}


@pytest.fixture
def metadata(tokens: Any, service: Any, google_metadata: Any) -> Any:
    """Of an instance. In a cluster, the account is the one that the pod's is bound to."""

    def answer(method: str, path: str) -> Any:
        if "/token" in path:
            return json.dumps(tokens.token()).encode(), FLAVOUR
        if path.endswith("project-id"):
            return b"project", FLAVOUR
        body = {"aliases": ["default"], "email": front.account, "scopes": front.scopes}
        return json.dumps(body).encode(), FLAVOUR

    front = service(answer)
    front.account, front.scopes = "default", ["https://www.googleapis.com/auth/cloud-platform"]
    google_metadata(front.url)
    return front


@pytest.mark.parametrize(
    ("account", "scopes"),
    [
        ("1-compute@developer.gserviceaccount.com", ["https://www.googleapis.com/auth/devstorage.read_only"]),
        ("reader@ward.iam.gserviceaccount.com", ["https://www.googleapis.com/auth/cloud-platform"]),
        ("ward.svc.id.goog", []),
    ],
)
def test_the_metadata_service(
    account: str, scopes: list[str], metadata: Any, gs_bucket: Any, front: Any, tokens: Any, visitor: Any
) -> None:
    metadata.account, metadata.scopes = account, scopes
    url = gs_bucket.put("private.bin", b"of a patient")
    visitor.fetch(gs_bucket.store(visitor.context, endpoint=front.url), url)
    assert visitor.sink.data == b"of a patient" and len(tokens.given) == 2
    asked = [urlsplit(path) for _, path, headers in metadata.seen if "/token" in path]
    assert len(asked) == 1 and "devstorage" in parse_qs(asked[0].query)["scopes"][0]
    assert all(headers.get("metadata-flavor") == "Google" for _, _, headers in metadata.seen)


def test_it_is_asked_directly_whatever_the_proxy(
    metadata: Any,
    google_metadata: Any,
    names: dict[str, str],
    gs_bucket: Any,
    front: Any,
    tokens: Any,
    visitor: Any,
    proxy: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is named, not written as an address of this machine."""
    host, port = "metadata.google.internal", metadata.server_port
    names[host] = "127.0.0.1"
    google_metadata(f"http://{host}:{port}")
    url = gs_bucket.put("private.bin", b"of a patient")
    context = attrs.evolve(visitor.context, proxies={"http": proxy.url, "https": proxy.url})
    with monkeypatch.context() as changed:
        changed.setenv("HTTP_PROXY", proxy.url)
        visitor.fetch(gs_bucket.store(context, endpoint=front.url), url)
    assert not proxy.seen and len(tokens.given) == 2


@pytest.fixture
def ending(metadata: Any, tokens: Any, front: Any) -> Any:
    """Tokens end, one by one, after some requests to the bucket."""
    take = front.instead
    front.ends, front.refused = [], 0

    def instead(method: str, path: str) -> Any:
        answer = take(method, path)
        if front.ends and len(front.seen) > front.ends[0]:
            front.ends.pop(0)
            tokens.given.append("ended")
            answer = take(method, path)
        front.refused += bool(answer)
        return answer

    front.instead = instead
    return front


def test_a_token_that_ends_during_a_fetch(gs_bucket: Any, ending: Any, visitor: Any) -> None:
    url = gs_bucket.put("big.bin", BIG)
    ending.ends = [4]
    visitor.fetch(gs_bucket.store(visitor.context, endpoint=ending.url), url)
    assert visitor.sink.data == BIG and visitor.sink.restarts == 0 and ending.refused


@pytest.mark.parametrize(("size", "ends"), [(3, [0]), (20 << 20, [0]), (20 << 20, [1]), (20 << 20, [2])])
def test_a_token_that_ends_during_an_upload(
    size: int, ends: list[int], gs_bucket: Any, ending: Any, visitor: Any
) -> None:
    ending.ends = list(ends)
    store = gs_bucket.store(visitor.context, endpoint=ending.url)
    visitor.put(store, gs_bucket.url("new.bin"), BIG[:size])
    assert ending.refused and sum(visitor.sent) == size
    if size < MIB:  # its body is sent again, from its beginning
        assert not visitor.events
    visitor.fetch(store, gs_bucket.url("new.bin"))
    assert visitor.sink.data == BIG[:size]


def test_a_server_that_takes_no_token(gs_bucket: Any, tokens: Any, metadata: Any, visitor: Any) -> None:
    """Two are tried."""
    url = gs_bucket.put("private.bin", b"x")
    tokens.front.instead = lambda method, path: (401, {}, b"")
    with pytest.raises(TransferError, match="answered 401"):
        visitor.fetch(gs_bucket.store(visitor.context, endpoint=tokens.front.url), url)
    assert len(tokens.front.seen) == 2
