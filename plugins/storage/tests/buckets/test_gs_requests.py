"""What the ``gs`` store sends, and what it says when the server refuses."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from medperf_core.errors import ConfigurationError, TransferError

TOKEN = "ya29.made-up-secret"


def with_token(context: Any) -> Any:
    return attrs.evolve(context, credentials={"gs": {"access_token": TOKEN}}.get)


def test_every_request_says_who_asks_and_who_pays(gs_bucket: Any, front: Any, person: Any) -> None:
    store = gs_bucket.store(with_token(person.context), endpoint=front.url, user_project="ward-7")
    person.put(store, gs_bucket.url("k"), b"x", absent=True)
    person.fetch(store, gs_bucket.url("k"))
    store.look(gs_bucket.url("k"))
    assert {method for method, _, _ in front.seen} == {"GET", "POST"}
    for _, path, headers in front.seen:
        assert headers["authorization"] == f"Bearer {TOKEN}"
        assert headers["x-goog-user-project"] == "ward-7"
        assert TOKEN not in path
    assert all("ifGenerationMatch=0" in path for method, path, _ in front.seen if method == "POST")


def test_a_refusal_says_who_asked_and_no_secret(gs_bucket: Any, front: Any, person: Any) -> None:
    front.instead = lambda method, path: (403, {}, f'{{"error": "{TOKEN}"}}'.encode())
    with pytest.raises(TransferError, match="answered 403") as caught:
        person.fetch(gs_bucket.store(with_token(person.context), endpoint=front.url), gs_bucket.url("k"))
    assert "stored here as gs" in str(caught.value) and TOKEN not in repr(caught.value)
    context = attrs.evolve(person.context, credentials=lambda name: None)
    with pytest.raises(TransferError, match="anonymously: no credentials were found"):
        person.fetch(gs_bucket.store(context, endpoint=front.url), gs_bucket.url("k"))
    assert "authorization" not in front.seen[-1][2]


def test_a_login_does_not_go_over_plain_http_to_others(gs_bucket: Any, person: Any) -> None:
    context = attrs.evolve(with_token(person.context), waivers=frozenset({"plain-http"}))
    with pytest.raises(ConfigurationError, match="plain http"):
        person.fetch(gs_bucket.store(context, endpoint="http://storage.hospital.example"), gs_bucket.url("k"))


def test_an_emulator_is_found_by_its_variable(gs_bucket: Any, person: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = gs_bucket.put("k", b"x")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gs_bucket.door.removeprefix("http://"))
    context = attrs.evolve(person.context, credentials=lambda name: None)
    person.fetch(gs_bucket.store(context, endpoint=None), url)
    assert person.sink.data == b"x"


def test_an_older_generation_is_asked_for_by_its_number(gs_bucket: Any, front: Any, person: Any) -> None:
    url = gs_bucket.put("k", b"x")
    store = gs_bucket.store(person.context, endpoint=front.url)
    version = store.look(url).version
    person.fetch(store, f"{url}#{version}")
    assert f"generation={version}" in front.seen[-1][1]
    with pytest.raises(TransferError, match="answered 404"):
        person.fetch(store, f"{url}#123")


@pytest.mark.parametrize("reply", [b"", b"[]", b"{", b"{}", b'{"size": "-1", "generation": "1"}', b"[" * 100_000])
def test_an_answer_that_is_not_of_google(gs_bucket: Any, front: Any, person: Any, reply: bytes) -> None:
    front.instead = lambda method, path: (200, {}, reply)
    with pytest.raises(TransferError, match="not one of Google"):
        gs_bucket.store(person.context, endpoint=front.url).look(gs_bucket.url("k"))


def test_an_answer_without_end(gs_bucket: Any, front: Any, person: Any) -> None:
    front.instead = lambda method, path: (200, {}, b" " * (2 << 20))
    with pytest.raises(TransferError, match="more than it was asked for"):
        gs_bucket.store(person.context, endpoint=front.url).look(gs_bucket.url("k"))
