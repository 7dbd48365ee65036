"""Keys that end in the middle of a transfer: others are asked for, and it goes on."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from medperf_core.errors import TransferError

BIG = os.urandom((66 << 20) + 5)
"""Several connections fetch it, in nine parts."""


@pytest.fixture
def instance(patient: Any, service: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A metadata service that gives other keys each time; ``given`` are those so far."""
    given: list[dict[str, str]] = []

    def answer(method: str, path: str) -> Any:
        if "security-credentials/" not in path:
            return b"token"
        if path.endswith("/"):
            return b"role"
        given.append(patient.of_metadata(Expiration=front.expires))
        return json.dumps(given[-1]).encode()

    front = service(answer)
    front.given = given
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", front.url)
    return front


@pytest.fixture
def strict(patient: Any, front: Any, instance: Any) -> Any:
    """Before Ceph: takes the newest keys only, and asks for newer ones after ``parts`` answers."""
    front.parts = front.refused = 0
    code = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"

    def instead(method: str, path: str) -> Any:
        if front.parts and len([1 for each in front.seen if each[0] == method]) > front.parts:
            front.ended.add(instance.given[0]["Token"])
        if front.seen[-1][2]["x-amz-security-token"] in front.ended:
            front.refused += 1
            return 400, {}, b"" if method == "HEAD" else code
        return None

    front.ended = set()
    front.instead = instead
    return front


def test_keys_that_end_during_a_fetch(patient: Any, instance: Any, strict: Any, in_minutes: Any) -> None:
    instance.expires, strict.parts = in_minutes(60), 4
    url = patient.bucket.put("big.bin", BIG)
    patient.person.fetch(patient.store(endpoint=strict.url), url)
    assert patient.person.sink.data == BIG and patient.person.sink.restarts == 0
    assert len(instance.given) == 2 and strict.refused


@pytest.mark.parametrize("size", [3, 20 << 20])
def test_keys_that_end_before_an_upload(size: int, patient: Any, instance: Any, strict: Any, in_minutes: Any) -> None:
    """The body of a refused request is sent again, from its beginning."""
    instance.expires = in_minutes(60)
    store = patient.store(endpoint=strict.url)
    patient.person.fetch(store, patient.url)
    strict.ended.add(instance.given[0]["Token"])
    patient.person.put(store, patient.bucket.url("new.bin"), BIG[:size])
    assert patient.bucket.ask("GET", "new.bin").content == BIG[:size]
    assert len(instance.given) == 2 and not patient.person.events


def test_keys_that_end_between_the_parts_of_an_upload(
    patient: Any, instance: Any, strict: Any, in_minutes: Any
) -> None:
    instance.expires, strict.parts = in_minutes(60), 2
    patient.person.put(patient.store(endpoint=strict.url), patient.bucket.url("new.bin"), BIG)
    assert patient.bucket.ask("GET", "new.bin").content == BIG
    assert len(instance.given) == 2


def test_a_look_after_the_keys_ended(patient: Any, instance: Any, strict: Any, in_minutes: Any) -> None:
    instance.expires = in_minutes(60)
    store = patient.store(endpoint=strict.url)
    assert store.look(patient.url)
    strict.ended.add(instance.given[0]["Token"])
    assert store.look(patient.url)


def test_keys_that_are_about_to_end_are_not_used(
    patient: Any, instance: Any, strict: Any, in_minutes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that say when they end are replaced before."""
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{instance.url}/security-credentials/of-a-container")
    instance.expires = in_minutes(5)
    store = patient.store(endpoint=strict.url)
    patient.person.fetch(store, patient.url)
    instance.expires = in_minutes(60)
    patient.person.fetch(store, patient.url)
    count = len(instance.given)
    patient.person.fetch(store, patient.url)
    assert count == len(instance.given) > 1 and not strict.refused


def test_keys_of_which_there_are_no_others(patient: Any, front: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server says is told, after one request."""
    front.instead = lambda method, path: (400, {}, b"<Error><Code>ExpiredToken</Code></Error>")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(TransferError, match="400 ExpiredToken"):
        patient.fetch(endpoint=front.url)
    assert len(front.seen) == 1


def test_a_small_file_goes_to_the_region_that_the_server_names(s3_bucket: Any, front: Any, person: Any) -> None:
    """Its body is sent again, from its beginning."""

    def moved(method: str, path: str) -> Any:
        if "/eu-west-1/s3/" in front.seen[-1][2]["authorization"]:
            return None
        return 400, {"x-amz-bucket-region": "eu-west-1"}, b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>"

    front.instead = moved
    person.put(s3_bucket.store(person.context, endpoint=front.url), s3_bucket.url("k"), b"content")
    assert s3_bucket.ask("GET", "k").content == b"content" and not person.events
