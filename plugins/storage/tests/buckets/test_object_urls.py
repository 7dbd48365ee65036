"""Addresses in buckets: what is taken, what is refused, and what of it may be shown."""

from __future__ import annotations

from typing import Any

import pytest

from medperf_core.errors import ConfigurationError, TransferError
from medperf_storage.gcs import GcsStorage
from medperf_storage.object_settings import GcsSettings, S3Settings
from medperf_storage.object_urls import ObjectUrl, check_endpoint, parse
from medperf_storage.s3 import S3Storage


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("s3://my-bucket/a/b c+%41.bin", ObjectUrl("s3", "my-bucket", "a/b c+%41.bin")),
        ("S3://my.bucket/ü", ObjectUrl("s3", "my.bucket", "ü")),
        ("s3://bucket/key?versionId=aB3._-", ObjectUrl("s3", "bucket", "key", "aB3._-")),
        ("gs://my_bucket/..two.dots", ObjectUrl("gs", "my_bucket", "..two.dots")),
        ("gs://bucket/key#1234", ObjectUrl("gs", "bucket", "key", "1234")),
    ],
)
def test_what_is_taken(url: str, found: ObjectUrl) -> None:
    assert parse(url, url) == found


@pytest.mark.parametrize(
    "url",
    [
        "s3:bucket/key",
        "s3:///key",
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket/a//b",
        "s3://bucket/a/",
        "s3://bucket//a",
        "s3://bucket/../other/key",
        "s3://bucket/a/./b",
        "s3://bucket/a\nb",
        "s3://bucket/a\x00",
        "s3://bucket/\ud800",
        "s3://bucket/" + "a" * 1025,
        "s3://bucket/" + "ü" * 513,
        "s3://Bucket/key",
        "s3://my_bucket/key",
        "s3://b/key",
        "s3://a..b/key",
        "s3://-bucket/key",
        "s3://127.0.0.1/key",
        "s3://169.254.169.254/latest",
        "s3://bucket:80/key",
        "s3://user:secret@bucket/key",
        "s3://bucket@evil.example/key",
        "s3://bücket/key",
        "s3://bucket/key?token=secret",
        "s3://bucket/key?versionId=",
        "s3://bucket/key?versionId=a&b=c",
        "s3://bucket/key#12",
        "gs://bucket/key#12a",
        "gs://bucket/key?generation=12",
        "gs://bucket/key#" + "1" * 21,
    ],
)
def test_what_is_refused(url: str) -> None:
    with pytest.raises(TransferError) as caught:
        parse(url, "it")
    assert caught.value.hint


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "ftp://host",
        "https://",
        "https://u:p@host",
        "https://host?a",
        "https://h:0",
        "https://[",
        "https://a\\b",
    ],
)
def test_an_endpoint_is_an_address_of_a_server(address: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_endpoint(address, "the setting")
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("HTTPS://S3.Hospital.Example:443/", "https://s3.hospital.example"),
        ("http://LOCALHOST:80", "http://localhost"),
        ("http://Host:443/Path/", "http://host:443/Path"),
        ("https://bücher.example:9000", "https://xn--bcher-kva.example:9000"),
        ("https://[::1]:443", "https://[::1]"),
    ],
)
def test_an_endpoint_is_written_as_it_is_asked(address: str, found: str) -> None:
    """Its host is signed."""
    assert check_endpoint(address, "the setting") == found


@pytest.mark.parametrize("url", ["s3://bucket/key?versionId=aB3._-", "gs://bucket/key#1234", "s3://bucket/key"])
def test_an_address_is_shown_with_its_version(url: str) -> None:
    assert str(parse(url, url)) == url


@pytest.mark.parametrize(
    ("settings", "public"),
    [
        ({}, "https://bucket.s3.us-east-1.amazonaws.com/a/%C3%BC%20b%2B"),
        ({"region": "eu-central-1"}, "https://bucket.s3.eu-central-1.amazonaws.com/a/%C3%BC%20b%2B"),
        ({"region": "cn-north-1"}, "https://bucket.s3.cn-north-1.amazonaws.com.cn/a/%C3%BC%20b%2B"),
        ({"addressing": "path"}, "https://s3.us-east-1.amazonaws.com/bucket/a/%C3%BC%20b%2B"),
        ({"endpoint": "https://s3.hospital.example/"}, "https://s3.hospital.example/bucket/a/%C3%BC%20b%2B"),
        (
            {"endpoint": "https://s3.hospital.example", "addressing": "virtual"},
            "https://bucket.s3.hospital.example/a/%C3%BC%20b%2B",
        ),
        ({"endpoint": "http://127.0.0.1:9"}, None),
    ],
)
def test_public_addresses_of_s3(settings: dict[str, Any], public: str | None, person: Any) -> None:
    assert S3Storage(S3Settings(**settings), person.context).public_url("s3://bucket/a/ü b+") == public


def test_a_bucket_with_dots_is_named_in_the_path(person: Any) -> None:
    """No certificate of AWS holds for such a host name."""
    public = S3Storage(S3Settings(), person.context).public_url("s3://my.bucket/a")
    assert public == "https://s3.us-east-1.amazonaws.com/my.bucket/a"


def test_public_addresses_of_google(person: Any) -> None:
    store = GcsStorage(GcsSettings(), person.context)
    assert store.public_url("gs://bucket/a/ü b+") == "https://storage.googleapis.com/bucket/a/%C3%BC%20b%2B"
    assert GcsStorage(GcsSettings(endpoint="http://127.0.0.1:9"), person.context).public_url("gs://bucket/a") is None


def test_the_environment_and_the_files_of_aws_say_where(
    person: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    config = tmp_path / "config"
    config.write_text("[profile ward]\nregion = eu-west-1\nendpoint_url = https://files.example\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))

    def public(**settings: Any) -> str | None:
        return S3Storage(S3Settings(**settings), person.context).public_url("s3://bucket/k")

    assert public(profile="ward") == "https://files.example/bucket/k"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://other.example")
    assert public(profile="ward") == "https://other.example/bucket/k"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://third.example")
    assert public() == "https://third.example/bucket/k"
    assert public(endpoint="https://fourth.example") == "https://fourth.example/bucket/k"
    config.write_text("[nonsense")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        public()


@pytest.mark.parametrize(
    "settings",
    [
        S3Settings(addressing="other"),
        S3Settings(region="Not/A.Region"),
        S3Settings(attempts=0),
        S3Settings(attempts=101),
        S3Settings(parallel=9),
        S3Settings(read_timeout=0),
        S3Settings(endpoint="https://10.1.2.3", addressing="virtual"),
        GcsSettings(user_project="a\nb"),
        GcsSettings(pause=-1),
    ],
)
def test_settings_that_make_no_sense(settings: Any, person: Any) -> None:
    with pytest.raises(ConfigurationError):
        (S3Storage if isinstance(settings, S3Settings) else GcsStorage)(settings, person.context)
