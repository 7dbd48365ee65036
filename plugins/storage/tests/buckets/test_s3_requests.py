"""What the ``s3`` store sends, and what it says when the server refuses; the server checks every signature."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import attrs
import pytest

from medperf_core.errors import AccessRefusedError, MedperfError, TransferError
from medperf_core.plugin import FetchRequest
from medperf_storage.http import HttpStorage
from medperf_storage.object_http import Refusal
from medperf_storage.object_settings import S3Settings
from medperf_storage.s3 import S3Storage
from medperf_storage.settings import HttpSettings
from medperf_storage.sigv4 import EMPTY_SHA256, Key, signed

SECRET = "sup3r-s3cret-k3y"


def anonymous(context: Any) -> Any:
    return attrs.evolve(context, credentials=lambda name: None)


def test_a_public_object_needs_no_credentials(s3_bucket: Any, person: Any) -> None:
    url = s3_bucket.put("public.bin", b"for all", **{"x-amz-acl": "public-read"})
    for context, settings in ((anonymous(person.context), {}), (person.context, {"anonymous": True})):
        person.fetch(s3_bucket.store(context, **settings), url)
        assert person.sink.data == b"for all"


def test_a_private_object_is_refused_with_words(s3_bucket: Any, front: Any, person: Any) -> None:
    url = s3_bucket.put("private.bin", b"patient")
    with pytest.raises(TransferError, match="403 AccessDenied") as caught:
        person.fetch(s3_bucket.store(anonymous(person.context), endpoint=front.url), url)
    assert "anonymously: no credentials were found" in str(caught.value)
    assert "authorization" not in front.seen[-1][2]
    wrong = {"access_key_id": "medperf-test", "secret_access_key": SECRET}
    context = attrs.evolve(person.context, credentials=lambda name: wrong if name == "s3" else None)
    with pytest.raises(TransferError, match=r"403 (SignatureDoesNotMatch|AccessDenied)") as caught:
        person.fetch(s3_bucket.store(context, endpoint=front.url), url)
    assert "stored here as s3" in str(caught.value) and SECRET not in str(caught.value)


def test_credentials_of_one_bucket_go_before_those_of_all(s3_bucket: Any, person: Any) -> None:
    url = s3_bucket.put("private.bin", b"patient")
    good = person.context.credentials("s3")
    wrong = {"access_key_id": "medperf-test", "secret_access_key": SECRET}
    stored = {"s3": wrong, f"s3://{s3_bucket.name}": good}
    person.fetch(s3_bucket.store(attrs.evolve(person.context, credentials=stored.get)), url)
    assert person.sink.data == b"patient"


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_of_the_environment_counts(variable: str, person: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "eu-central-1")
    public = S3Storage(S3Settings(), person.context).public_url("s3://bucket/k")
    assert public == "https://bucket.s3.eu-central-1.amazonaws.com/k"


def test_what_is_missing_is_told_apart(s3_bucket: Any, person: Any) -> None:
    store = s3_bucket.store(person.context)
    with pytest.raises(TransferError, match="404 NoSuchKey"):
        person.fetch(store, s3_bucket.url("nothing"))
    with pytest.raises(TransferError, match="404 NoSuchBucket") as caught:
        person.fetch(store, "s3://no-such-bucket-anywhere/nothing")
    assert "check the name" in str(caught.value)


def test_secrets_are_in_no_error_event_or_repr(s3_bucket: Any, front: Any, person: Any) -> None:
    stored = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": SECRET, "session_token": f"token-{SECRET}"}
    context = attrs.evolve(person.context, credentials=lambda name: stored)
    store = s3_bucket.store(context, endpoint=front.url)

    def missing() -> None:
        assert status == 404
        raise TransferError("nothing is there")

    reply = f"<Error><Code>InvalidAccessKeyId</Code><Message>{SECRET} AKIDEXAMPLE</Message></Error>".encode()
    for status in (400, 403, 404, 500, 503):
        front.instead = lambda method, path, status=status: (status, {"X-Echo": SECRET}, reply)
        for use in (
            lambda: person.fetch(store, s3_bucket.url("k")),
            lambda: person.put(store, s3_bucket.url("k"), b"x"),
            lambda: person.put(store, s3_bucket.url("k"), b"x", absent=True),
            lambda: person.put(store, s3_bucket.url("k"), bytes(9 << 20)),
            lambda: store.look(s3_bucket.url("k")) or missing(),
        ):
            with pytest.raises(MedperfError) as caught:
                use()
            told = f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {person.events}"
            assert SECRET not in told and "AKIDEXAMPLE" not in told
    assert SECRET not in repr(Key("a", SECRET, SECRET))
    assert SECRET not in repr(store.__dict__) + repr(store.remote(store.address(s3_bucket.url("k"))).__dict__)


def test_a_presigned_address_goes_through_the_http_store(s3_bucket: Any, person: Any) -> None:
    """As owners hand them out; the signature is in the query, and in no message."""
    session = pytest.importorskip("botocore.session").Session()
    client = session.create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=s3_bucket.door,
        aws_access_key_id=s3_bucket.credentials["access_key_id"],
        aws_secret_access_key=s3_bucket.credentials["secret_access_key"],
        config=pytest.importorskip("botocore.config").Config(s3={"addressing_style": "path"}, signature_version="s3v4"),
    )
    content = b"p" * 300_000
    s3_bucket.put("a b/presigned.bin", content)
    url = client.generate_presigned_url(
        "get_object", Params={"Bucket": s3_bucket.name, "Key": "a b/presigned.bin"}, ExpiresIn=60
    )
    store = HttpStorage(HttpSettings(attempts=1), person.context)
    person.fetch(store, url, allow_local=True)
    assert person.sink.data == content
    with pytest.raises(TransferError) as caught:
        store.fetch(FetchRequest(url.replace("presigned", "other"), True, 1 << 30), person.sink)
    assert "X-Amz" not in str(caught.value) and "Signature" not in str(caught.value)


def test_requester_pays_is_said_and_signed(s3_bucket: Any, front: Any, person: Any) -> None:
    store = s3_bucket.store(person.context, endpoint=front.url, requester_pays=True)
    person.put(store, s3_bucket.url("k"), b"x")
    person.fetch(store, s3_bucket.url("k"))
    store.look(s3_bucket.url("k"))
    for _, _, headers in front.seen:
        assert headers["x-amz-request-payer"] == "requester"
        assert "x-amz-request-payer" in headers["authorization"]


def test_a_bucket_of_another_region_is_asked_there(s3_bucket: Any, front: Any, person: Any) -> None:
    url = s3_bucket.put("k", b"x")

    def moved(method: str, path: str) -> Any:
        if "/eu-west-1/s3/" in front.seen[-1][2]["authorization"]:
            return None
        return 400, {"x-amz-bucket-region": "eu-west-1"}, b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>"

    front.instead = moved
    store = s3_bucket.store(person.context, endpoint=front.url)
    for _ in range(2):
        person.fetch(store, url)
    assert person.sink.data == b"x" and len(front.seen) == 3
    front.instead = lambda method, path: (301, {"x-amz-bucket-region": "evil.example/"}, b"")
    with pytest.raises(TransferError, match="answered 301"):
        person.fetch(s3_bucket.store(person.context, endpoint=front.url), url)


@pytest.mark.parametrize("status", [302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_no_success(s3_bucket: Any, front: Any, person: Any, status: int) -> None:
    """A server before the bucket may answer all requests so; nothing is stored then."""
    front.instead = lambda method, path: (status, {"Location": f"{front.url}/elsewhere", "ETag": '"1"'}, b"")
    store, url = s3_bucket.store(person.context, endpoint=front.url), s3_bucket.url("k")
    for use in (
        lambda: person.fetch(store, url),
        lambda: person.put(store, url, b"x"),
        lambda: person.put(store, url, b"x", absent=True),
        lambda: person.put(store, url, b"x" * (9 << 20)),
        lambda: store.look(url),
    ):
        before = len(front.seen)
        with pytest.raises(TransferError, match=f"answered {status}"):
            use()
        assert len(front.seen) == before + 1
    assert not [path for _, path, _ in front.seen if path.endswith("/elsewhere")]


@pytest.mark.parametrize("etag", ['W/"abc"', "abc"])
def test_a_version_that_is_not_strong_is_said(s3_bucket: Any, front: Any, person: Any, etag: str) -> None:
    """Such as that of a proxy which compresses: no condition would ever hold for it."""
    url = s3_bucket.put("k", b"x" * 100)
    front.change = lambda method, path, answer: (
        answer[0],
        {**{name: value for name, value in answer[1].items() if name.lower() != "etag"}, "ETag": etag},
        answer[2],
    )
    with pytest.raises(TransferError, match="no strong ETag"):
        person.fetch(s3_bucket.store(person.context, endpoint=front.url), url)
    assert len(front.seen) == 1


def test_the_authorities_of_aws_are_those_of_s3_alone(
    person: Any, s3_bucket: Any, gs_bucket: Any, tls_front: Any, named_tls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(named_tls.pem))
    for bucket in (s3_bucket, gs_bucket):
        front = tls_front(bucket.server, "127.0.0.1")
        url = bucket.put("k", b"x")
        store = bucket.store(person.context, endpoint=front.url.replace("http:", "https:"))
        if bucket is s3_bucket:
            person.fetch(store, url)
            assert person.sink.data == b"x"
        else:
            with pytest.raises(TransferError, match=f"server of {url} could not be asked: the certificate"):
                person.fetch(store, url)


def test_an_older_version_is_fetched_by_its_id(s3_bucket: Any, person: Any) -> None:
    s3_bucket.ask("PUT", "?versioning=", b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
    s3_bucket.put("k", b"first")
    version = s3_bucket.ask("HEAD", "k").headers["x-amz-version-id"]
    s3_bucket.put("k", b"second")
    store = s3_bucket.store(person.context)
    person.fetch(store, s3_bucket.url("k"))
    assert person.sink.data == b"second"
    person.fetch(store, f"{s3_bucket.url('k')}?versionId={version}")
    assert person.sink.data == b"first"
    assert store.look(f"{s3_bucket.url('k')}?versionId={version}").size == 5


def test_the_bucket_can_stand_in_the_host_name(s3_bucket: Any, front: Any, person: Any, names: Any) -> None:
    port = urlsplit(front.url).port
    names[f"{s3_bucket.name}.localhost"] = "127.0.0.1"
    front.instead = lambda method, path: (200, {"ETag": '"1"'}, b"hello")
    store = s3_bucket.store(person.context, endpoint=f"http://localhost:{port}", addressing="virtual")
    person.fetch(store, s3_bucket.url("a/k"))
    assert person.sink.data == b"hello"
    _, path, headers = front.seen[0]
    assert (path, headers["host"]) == ("/a/k", f"{s3_bucket.name}.localhost:{port}")


@pytest.mark.parametrize("query", ["", "uploads=", "partNumber=2&uploadId=a%2Fb~c%3D"])
def test_signatures_are_those_of_the_library_of_aws(query: str) -> None:
    auth = pytest.importorskip("botocore.auth")
    credentials = pytest.importorskip("botocore.credentials").Credentials("AKID", SECRET, "token")
    url = f"https://bucket.s3.eu-west-1.amazonaws.com/a%20b/%C3%BC%2B%27{f'?{query}' if query else ''}"
    request = pytest.importorskip("botocore.awsrequest").AWSRequest("PUT", url, {"If-None-Match": "*"}, b"")
    request.context["payload_signing_enabled"] = True
    auth.S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(request)
    moment = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    ours = signed(
        Key("AKID", SECRET, "token"), "eu-west-1", "PUT", url, {"If-None-Match": "*"}, EMPTY_SHA256, now=moment
    )
    assert ours["Authorization"] == request.headers["Authorization"]


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("SignatureDoesNotMatch", "The secret key is wrong: correct the credentials that are stored here as s3://"),
        ("InvalidAccessKeyId", "The server does not know the access key: correct the credentials"),
    ],
)
@pytest.mark.parametrize("what", ["could not be fetched", "could not be uploaded"])
def test_keys_that_never_were_good_are_called_so(what: str, code: str, hint: str, person: Any, s3_bucket: Any) -> None:
    name = f"s3://{s3_bucket.name}"
    context = attrs.evolve(person.context, credentials={name: s3_bucket.credentials}.get)
    store = S3Storage(s3_bucket.settings(), context)
    error = store.remote(store.address(f"{name}/k")).words(Refusal(403, code, {}), what)
    assert isinstance(error, AccessRefusedError) and (error.hint or "").startswith(hint)
    assert "everybody" not in (error.hint or "")
