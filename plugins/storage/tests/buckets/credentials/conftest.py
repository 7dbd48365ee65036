"""Keys and tokens that expire, files of the clouds' tools, and a site that stored nothing of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_storage.s3 import S3Storage
from tests.engines import require
from tests.engines.ceph import ROLE

CONTENT = b"of a patient"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder of the test's own, where the clouds' tools keep their files. Nothing is tried twice."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    # The library looks for the home folder only when it is loaded.
    for name in ("credentials.SSOProvider", "tokens.SSOTokenProvider"):
        monkeypatch.setattr(f"botocore.{name}._SSO_TOKEN_CACHE_DIR", str(folder / ".aws" / "sso" / "cache"))
    return folder


@pytest.fixture
def visitor(person: Any) -> Any:
    """Whose site stored no credentials."""
    return attrs.evolve(person, context=attrs.evolve(person.context, credentials=lambda name: None))


@pytest.fixture
def aws_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes the files of AWS where its tools look for them."""

    def write(config: str = "", credentials: str = "") -> None:
        folder = home / ".aws"
        folder.mkdir(exist_ok=True)
        (folder / "config").write_text(config)
        (folder / "credentials").write_text(credentials)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.delenv(name, raising=False)

    return write


@attrs.define
class Patient:
    """A private object of S3, and whoever fetches it.

    Attributes:
        keys: of its owner: access key and secret.
        server: Ceph's gateway, which is the token service (STS) too.
    """

    person: Any
    bucket: Any
    url: str
    keys: tuple[str, str]
    server: str

    def store(self, **settings: Any) -> S3Storage:
        found = self.bucket.store(self.person.context, **settings)
        assert isinstance(found, S3Storage)
        return found

    def fetch(self, **settings: Any) -> str:
        """Fetch it; whose credentials were used, in words."""
        store = self.store(**settings)
        self.person.fetch(store, self.url)
        assert self.person.sink.data == CONTENT
        return self.source(store)

    def source(self, store: S3Storage) -> str:
        return store._askers[self.bucket.name].source

    def temporary(self, **changes: Any) -> dict[str, str]:
        """Keys of the role ``ROLE`` that Ceph gives for 15 minutes, said to hold for an hour."""
        session = pytest.importorskip("botocore.session").Session()
        client = session.create_client(
            "sts",
            region_name="us-east-1",
            endpoint_url=self.server,
            aws_access_key_id=self.keys[0],
            aws_secret_access_key=self.keys[1],
        )
        found = client.assume_role(RoleArn=ROLE, RoleSessionName="by-a-test", DurationSeconds=900)["Credentials"]
        return {
            "AccessKeyId": found["AccessKeyId"],
            "SecretAccessKey": found["SecretAccessKey"],
            "SessionToken": found["SessionToken"],
            "Expiration": later(60),
            **changes,
        }

    def of_metadata(self, **changes: Any) -> dict[str, str]:
        """The same, as metadata services write them."""
        found = self.temporary(**changes)
        token = found.pop("SessionToken")
        return {"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": later(0), "Token": token, **found}


@pytest.fixture
def patient(visitor: Any, s3_bucket: Any) -> Patient:
    keys = s3_bucket.credentials["access_key_id"], s3_bucket.credentials["secret_access_key"]
    url = s3_bucket.put("private.bin", CONTENT)
    return Patient(visitor, s3_bucket, url, keys, require("s3")["MEDPERF_TEST_S3"])


def later(minutes: float) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def in_minutes() -> Callable[[float], str]:
    """A time from now, as services write it."""
    return later


@attrs.define
class TokenServer:
    """A stand-in for the services of Google that give tokens, and a bucket that takes the newest token only.

    Attributes:
        front: before the real server of buckets.
        given: tokens, the newest last.
        replies: what else is answered, by what a path contains.
    """

    front: Any
    given: list[str] = attrs.field(factory=lambda: ["none-yet"])
    replies: dict[str, Callable[[], Any]] = attrs.field(factory=dict)

    def answer(self, method: str, path: str) -> Any:
        for part, reply in self.replies.items():
            if part in path:
                found = reply()
                return found if isinstance(found, tuple) else (200, JSON, json.dumps(found).encode())
        if "/storage/v1/" in path:
            right = f"Bearer {self.given[-1]}"
            said = self.front.seen[-1][2].get("authorization")
            return None if said == right else (401, {}, b'{"error": {"code": 401}}')
        return 404, {}, b""

    def token(self) -> dict[str, Any]:
        """A new token, as OAuth says it."""
        self.given.append(f"ya29.token-{len(self.given)}")
        return {"access_token": self.given[-1], "expires_in": 3600, "token_type": "Bearer"}

    def asked(self, part: str) -> list[tuple[str, Mapping[str, str], bytes]]:
        """Path, headers and body of the requests whose path contains something."""
        return [
            (path, headers, body)
            for (_, path, headers), body in zip(self.front.seen, self.front.bodies, strict=True)
            if part in path
        ]


JSON = {"Content-Type": "application/json"}


@pytest.fixture
def tokens(gs_bucket: Any, front: Any) -> TokenServer:
    made = TokenServer(front)
    front.instead = made.answer
    return made


GOOGLE = ("oauth2.googleapis.com", "iamcredentials.googleapis.com")


@pytest.fixture
def google(tokens: TokenServer, proxy: Any, tls_front: Any, named_tls: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Those services of Google whose addresses are fixed, behind a proxy. What they answer is that of ``tokens``."""
    far = tls_front(tokens.front.url, *GOOGLE)
    proxy.tunnel_to = far.server_port
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(named_tls.pem))
    return proxy


@pytest.fixture
def adc(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes the file of application default credentials, where gcloud has it or where the variable says."""

    def write(content: Mapping[str, Any] | str, *, gcloud: bool = False) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        if gcloud:
            folder = home / "gcloud"
            folder.mkdir(exist_ok=True)
            (folder / "application_default_credentials.json").write_text(text)
            monkeypatch.setenv("CLOUDSDK_CONFIG", str(folder))
        else:
            (home / "adc.json").write_text(text)
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(home / "adc.json"))

    return write
