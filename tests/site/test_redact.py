"""Secrets in text: registered ones in every form, and what looks like one."""

from __future__ import annotations

import base64
import json
import time
from urllib.parse import quote, quote_plus, urlencode

import pytest

from medperf_core.site.redact import Redactor

SECRET = "S3cr3t/Val+ue"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}==",
        f"Authorization: Token {SECRET} and {SECRET}",
        f"{{'Authorization': 'Token {SECRET}', 'Accept': '*/*'}}",
        f'{{"Proxy-Authorization": "Custom a {SECRET}"}}',
        f"('Authorization', 'Token {SECRET}')",
        f"(b'Authorization', b'Token {SECRET}')",
        f"send: b'GET / HTTP/1.1\\r\\nAuthorization: Token {SECRET}\\r\\n'",
        f"Set-Cookie: sessionid={SECRET}; Path=/",
        f"Cookie: a=b; c={SECRET}",
        f"X-Auth-Token: {SECRET}",
        f"X-Api-Key: {SECRET}",
        f"got bearer {SECRET} from",
        f"token={SECRET}",
        f"access_token: {SECRET}",
        f"refreshToken={SECRET}",
        f"MEDPERF_REST_TOKEN={SECRET}",
        f'"password": "{SECRET} with spaces {SECRET}"',
        f"'passwd' : '{SECRET}'",
        f"PWD={SECRET}",
        f'"client_secret":"a\\"{SECRET}"',
        f"passphrase => {SECRET}",
        f"password={SECRET}&{SECRET},{SECRET};{SECRET}",
        f"password=[{SECRET}",
        "body: " + json.dumps(json.dumps({"token": SECRET, "a": 1})),
        "body: " + json.dumps(json.dumps(json.dumps({"token": SECRET}))),
        "urlencoded " + urlencode({"grant": "x", "refresh_token": SECRET}),
        f"nested next=%3Ftoken%3D{quote(SECRET)}",
        f"https://b.s3.amazonaws.com/k?X-Amz-Credential={SECRET}%2F2026&X-Amz-Date=1",
        f"https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature={SECRET}",
        f"https://b.s3.amazonaws.com/k?x-amz-security-token={SECRET}",
        f"https://storage.googleapis.com/k?X-Goog-Signature={SECRET}",
        f"https://b.s3.amazonaws.com/k?AWSAccessKeyId={SECRET}&Expires=1",
        f"https://a.blob.core.windows.net/c?sv=1&sig={SECRET}",
        f"https://user:{quote(SECRET, safe='')}@host/path",
        f"https://{quote(SECRET, safe='')}@host/path",
        f"http://user:p@ss{quote(SECRET, safe='')}@proxy:3128",
        f"aws_secret_access_key = {SECRET}",
        f"--rest-token {SECRET} --other x",
        f"['medperf', '--rest-token', '{SECRET}']",
        f"-----BEGIN RSA PRIVATE KEY-----\nMIIE{SECRET}\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\nMIIE{SECRET}\n(cut)",
        "jwt eyJhbGciOiJIUzI1NiJ9.eyJS3cr3t/Val+ue".replace("/Val+ue", "NiJ9.Abc"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str) -> None:
    clean = Redactor()(text)
    assert "S3cr3t" not in clean
    assert "[redacted]" in clean
    assert Redactor()(clean).count("[redacted]") >= 1


@pytest.mark.parametrize(
    "text",
    [
        "medperf_core.site: Fetching https://host/path/file.tar.gz?version=3&part=a",
        "task infer of model 4 (me@host.org) took 3.5 s: exit code 0",
        "assigned=3 design: x signal=9",
        "tokenizer=fast",
        'File "/usr/lib/python3.11/http/client.py", line 3, in request',
        "config:sha256:" + "a" * 64,
        "the password was wrong",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert Redactor()(text) == text


def test_what_surrounds_a_secret_stays() -> None:
    assert Redactor()("GET https://me:pw@host/x?a=1&token=abc HTTP/1.1") == (
        "GET https://[redacted]@host/x?a=1&token=[redacted] HTTP/1.1"
    )
    assert Redactor()("a\nAuthorization: Basic abcd\nb") == "a\nAuthorization: [redacted]\nb"


SPELLINGS = (
    lambda secret: secret,
    lambda secret: quote(secret, safe=""),
    lambda secret: quote_plus(secret),
    lambda secret: json.dumps(secret),
    lambda secret: repr(secret),
    lambda secret: base64.b64encode(secret.encode()).decode(),
)


@pytest.mark.parametrize("secret", ["horse battery", "a\"b'c\\d", "päss wörd", "x" * 300, "a.b*c+(d", "q1w2"])
@pytest.mark.parametrize("spell", SPELLINGS)
def test_registered_secrets_are_found_however_they_are_spelled(secret: str, spell: object) -> None:
    redact = Redactor()
    redact.add("other")
    redact.add(secret)
    assert callable(spell)
    text = spell(secret)
    assert text.strip("\"'") not in redact(f"before {text} after")
    assert redact(f"before {text} after").startswith("before ")


def test_lines_of_a_registered_key_are_found_alone() -> None:
    redact = Redactor()
    redact.add("first-line-of-it\nsecond-line-of-it\n")
    assert "line-of-it" not in redact("only second-line-of-it, then first-line-of-it")


def test_the_longer_of_two_secrets_goes_whole() -> None:
    redact = Redactor()
    redact.add("abcd")
    redact.add("abcdefgh")
    assert redact("abcdefgh") == "[redacted]"


def test_too_short_or_empty_values_take_nothing_out() -> None:
    redact = Redactor()
    for value in ("", "a", "abc", " "):
        redact.add(value)
    assert redact("a abc b") == "a abc b"


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "token",
        "token=",
        "a.",
        "'",
        '"',
        "\\",
        "Bearer ",
        "://",
        "a://",
        "- ",
        "=",
        "authorization: ",
        "eyJ",
        "x-amz-",
        "-----BEGIN PRIVATE KEY-----",
        " ",
        "--token ",
    ],
)
def test_hostile_text_takes_no_long_time(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    began = time.perf_counter()
    Redactor()(text)
    assert time.perf_counter() - began < 5
