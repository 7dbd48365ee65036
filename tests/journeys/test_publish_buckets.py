"""From a folder to a registered container in a bucket of a real server, and to another site that runs it from there."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import attrs
import pytest
import requests
from medperf_storage.sigv4 import Key, signed

from medperf_core import ApproveAll, DenyAll, Site
from medperf_core.entities import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import DeniedError, MedperfError, TransferError, UsageError, VerificationError
from medperf_core.journeys import account
from medperf_core.journeys.compatibility import run_test
from medperf_core.journeys.package import package
from medperf_core.journeys.publish import publish
from medperf_core.journeys.submit import HostedFiles, submit_container
from medperf_core.plugin import Event, Notice, StepStarted
from medperf_core.site.fetch import Origin
from tests.engines import certificates, require

from .conftest import Tutorial, start
from .test_publish import registered

CLOUD_VARIABLES = re.compile("(AWS|GOOGLE|GCE|GCLOUD|CLOUDSDK|STORAGE_EMULATOR)_?.*")
TOKEN = "made-up-token"


class Door(ThreadingHTTPServer):
    """The ``https`` front of a bucket's server, which has none itself; addresses of public files are ``https`` only.

    Attributes:
        closed: answer 403 to whoever brings no token, where the server itself asks nobody who he is.
        uploads: how many more it lets through; after them it is out of order.
    """

    daemon_threads = True

    def __init__(self, behind: str, own_name: bool, tls: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.behind, self.own_name = urlsplit(behind).netloc, own_name
        self.closed, self.uploads = False, 1000
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "server.pem", tls / "server.key")
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no matter."""


class _Passing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Door

    def _all(self) -> None:
        headers: list[tuple[str, str]] = []
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        door, sent = self.server, dict(self.headers.items())
        if self.command in ("PUT", "POST"):
            door.uploads -= 1
        if door.uploads < 0:
            status, content = 503, b""
        elif door.closed and "Authorization" not in self.headers:
            status, content = 403, b""
        else:
            if door.own_name:
                sent["Host"] = door.behind
            far = http.client.HTTPConnection(door.behind, timeout=60)
            far.request(self.command, self.path, body or None, sent)
            answer = far.getresponse()
            status, headers, content = answer.status, answer.getheaders(), answer.read()
            far.close()
        length = next((value for name, value in headers if name == "Content-Length"), str(len(content)))
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _all

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


@attrs.frozen
class Bucket:
    """A bucket of its own on a real server.

    Attributes:
        server: the server's own address.
        credentials: what its owner has.
    """

    scheme: str
    name: str
    server: str
    door: Door
    tls: Path
    credentials: Mapping[str, str]

    @property
    def to(self) -> str:
        return f"{self.scheme}://{self.name}/models"

    @property
    def public(self) -> str:
        """The beginning of the addresses of its files, for everybody."""
        return f"{self.door.url}/{self.name}/models"

    def open_to_all(self) -> None:
        """Let everybody read."""
        self.door.closed = False
        if self.scheme == "s3":
            rule = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::*"}
            policy = {"Version": "2012-10-17", "Statement": [{**rule, "Resource": f"arn:aws:s3:::{self.name}/*"}]}
            self.ask("PUT", "?policy=", json.dumps(policy).encode())

    def keys(self) -> list[str]:
        """What is there."""
        if self.scheme == "s3":
            return re.findall("<Key>([^<]*)</Key>", self.ask("GET", "").text)
        found = requests.get(f"{self.server}/storage/v1/b/{self.name}/o", timeout=60).json()
        return [each["name"] for each in found.get("items", [])]

    def put(self, key: str, content: bytes) -> None:
        """Put something there."""
        if self.scheme == "s3":
            self.ask("PUT", f"/{quote(key)}", content)
        else:
            address = f"{self.server}/upload/storage/v1/b/{self.name}/o?uploadType=media&name={quote(key, safe='')}"
            requests.post(address, data=content, timeout=60).raise_for_status()

    def remove(self) -> None:
        """Remove it and all that is there."""
        for key in self.keys():
            if self.scheme == "s3":
                self.ask("DELETE", f"/{quote(key)}")
            else:
                requests.delete(f"{self.server}/storage/v1/b/{self.name}/o/{quote(key, safe='')}", timeout=60)
        if self.scheme == "s3":
            self.ask("DELETE", "")
        else:
            requests.delete(f"{self.server}/storage/v1/b/{self.name}", timeout=60)

    def ask(self, method: str, rest: str, body: bytes = b"") -> requests.Response:
        """A signed request of S3, below the bucket."""
        url = f"{self.server}/{self.name}{rest}"
        key = Key(self.credentials["access_key_id"], self.credentials["secret_access_key"])
        sent = signed(key, "us-east-1", method, url, {}, hashlib.sha256(body).hexdigest())
        answer = requests.request(method, url, data=body, headers=sent, timeout=60)
        assert answer.status_code < 300, (answer.status_code, answer.text[:300])
        return answer


@pytest.fixture(autouse=True)
def no_cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials but those that a test gives, and no service that would give any."""
    for name in list(os.environ):
        if CLOUD_VARIABLES.fullmatch(name):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "CLOUDSDK_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    """One for all of these tests, each of which has a bucket and a model of its own."""
    return start(tmp_path_factory.mktemp("publish"))


@pytest.fixture
def model(tutorial: Tutorial, tmp_path: Path) -> Path:
    """A model that nobody registered yet."""
    return own_model(tutorial, tmp_path)


def own_model(tutorial: Tutorial, tmp_path: Path) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(tutorial.model.parent, copy, ignore=shutil.ignore_patterns("deploy"))
    (copy / "mlcube" / "workspace" / "additional_files" / "note.txt").write_text(uuid.uuid4().hex)
    return copy / "mlcube"


@pytest.fixture(scope="module")
def singularity(tmp_path_factory: pytest.TempPathFactory) -> Tutorial:
    require("apptainer")
    return start(tmp_path_factory.mktemp("singularity"), platform="singularity")


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority and a certificate of this machine."""
    folder = tmp_path_factory.mktemp("tls")
    certificates.ensure(folder)
    return folder


@pytest.fixture
def make_bucket(tls: Path) -> Iterator[Callable[[str], Bucket]]:
    made: list[Bucket] = []

    def make(scheme: str) -> Bucket:
        name = f"publish-{uuid.uuid4().hex[:12]}"
        if scheme == "s3":
            engine = require("s3")
            server = engine["MEDPERF_TEST_S3"]
            keys = {
                "access_key_id": engine["MEDPERF_TEST_S3_KEY"],
                "secret_access_key": engine["MEDPERF_TEST_S3_SECRET"],
            }
            bucket = Bucket(scheme, name, server, Door(server, False, tls), tls, keys)
            bucket.ask("PUT", "")
        else:
            server = require("gcs")["MEDPERF_TEST_GCS"]
            bucket = Bucket(scheme, name, server, Door(server, True, tls), tls, {"access_token": TOKEN})
            requests.post(f"{server}/storage/v1/b?project=test", json={"name": name}, timeout=60).raise_for_status()
        bucket.door.closed = scheme == "gs"  # Ceph asks who one is by itself
        made.append(bucket)
        return bucket

    yield make
    for bucket in made:
        bucket.remove()
        bucket.door.shutdown()
        bucket.door.server_close()


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest, make_bucket: Callable[[str], Bucket]) -> Bucket:
    """A private bucket of each cloud in turn."""
    return make_bucket(request.param)


def ready(site: Site, *buckets: Bucket, owner: bool = True) -> Site:
    """The site, once it knows where the buckets are; and whose they are."""
    stores = {each.scheme: {"endpoint": each.door.url, "attempts": 1, "pause": 0.0} for each in buckets}
    changes = {"ca_bundle": str(buckets[0].tls / "ca.pem"), "backends": {**site.profile.backends, **stores}}
    site.profile = site.profiles.update(site.profile_name, changes)
    for each in buckets if owner else ():
        site.credentials.put(f"{each.scheme}://{each.name}", each.credentials)
    return site


def elsewhere(tutorial: Tutorial, tmp_path: Path, *buckets: Bucket, owner: bool) -> Site:
    """Another site of the same server, which has nothing yet."""
    with tutorial.site() as site:
        profile, user = site.profile, site.server.me().username
    fresh = tmp_path / "fresh"
    with Site.open(fresh) as site:
        changes = {name: getattr(profile, name) for name in ("server", "platform", "allow", "backends")}
        site.profiles.update(site.profile_name, changes)
    with Site.open(fresh) as site:
        ready(site, *buckets, owner=owner)
        account.login(site, user, lambda *args: "")
    return Site.open(fresh, approver=ApproveAll("test"))


def test_a_public_bucket_is_registered_by_its_web_addresses(
    tutorial: Tutorial, model: Path, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.open_to_all()
    with tutorial.site() as site:
        done = publish(ready(site, bucket), model, bucket.to, name=bucket.name)
        container = registered(done)
    assert done.public
    assert [each.url for each in done.files] == [f"{bucket.public}/{each.sha256}/{each.name}" for each in done.files]
    assert sorted(bucket.keys()) == sorted(f"models/{each.sha256}/{each.name}" for each in done.files)
    assert container.additional_files_tarball_url.startswith(bucket.public)
    with elsewhere(tutorial, tmp_path, bucket, owner=False) as site:
        assert run_test(site, benchmark=1, model=str(container.uid)).results


def test_a_private_bucket_is_registered_as_what_it_is(
    tutorial: Tutorial, model: Path, bucket: Bucket, tmp_path: Path
) -> None:
    told: list[Event] = []
    with tutorial.site(on_event=told.append) as site:
        done = publish(ready(site, bucket), model, bucket.to, name=bucket.name)
        uid = str(registered(done).uid)
        secrets = [str(value) for value in bucket.credentials.values()]
        assert not any(secret in str(entry) for entry in site.audit.entries() for secret in secrets)
    assert not done.public
    assert [each.url for each in done.files] == [f"{bucket.to}/{each.sha256}/{each.name}" for each in done.files]
    warnings = [each.message for each in told if isinstance(each, Notice) and each.level == "warning"]
    assert any("need an account there" in each for each in warnings)
    with elsewhere(tutorial, tmp_path, bucket, owner=False) as site:
        with pytest.raises(TransferError, match=f"{bucket.scheme}://.*403"):
            run_test(site, benchmark=1, model=uid)
        site.credentials.put(bucket.scheme, bucket.credentials)
        assert run_test(site, benchmark=1, model=uid).results


def by_endpoint(site: Site, bucket: Bucket, endpoint: str) -> Site:
    """The site, once it reaches the bucket's server at another address."""
    ready(site, bucket)
    plain = {**site.profile.backends, bucket.scheme: {"endpoint": endpoint, "attempts": 1, "pause": 0.0}}
    site.profile = site.profiles.update(site.profile_name, {"backends": plain})
    return site


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_an_own_server_without_https_is_read_as_a_stranger_would(
    scheme: str, tutorial: Tutorial, model: Path, make_bucket: Callable[[str], Bucket]
) -> None:
    bucket, told = make_bucket(scheme), list[Event]()
    bucket.open_to_all()
    with tutorial.site(on_event=told.append) as site:
        done = publish(by_endpoint(site, bucket, bucket.server), model, bucket.to, name=bucket.name)
    assert done.public and {each.url for each in done.files} == {each.target for each in done.files}
    notices = [each for each in told if isinstance(each, Notice)]
    assert not [each for each in notices if each.level == "warning"]
    [notice] = [each.message for each in notices if "Everybody who reaches this server can read" in each.message]
    assert f"the {scheme}: addresses are registered" in notice


def test_a_private_bucket_of_an_own_server_without_https_is_warned_of(
    tutorial: Tutorial, model: Path, make_bucket: Callable[[str], Bucket]
) -> None:
    bucket, told = make_bucket("s3"), list[Event]()
    with tutorial.site(on_event=told.append) as site:
        done = publish(by_endpoint(site, bucket, bucket.server), model, bucket.to, name=bucket.name)
    assert done.public is False and {each.url for each in done.files} == {each.target for each in done.files}
    [warning] = [each.message for each in told if isinstance(each, Notice) and each.level == "warning"]
    assert "Not everybody may read" in warning and "403" in warning and "need an account there" in warning


def refused_before_packing(site: Site, model: Path, to: str, told: list[Event]) -> MedperfError:
    """The error of publishing to a place where nothing can be published, in a dry run."""
    with pytest.raises(MedperfError) as caught:
        publish(site, model, to, name="nowhere", dry_run=True)
    assert not [each for each in told if isinstance(each, StepStarted) and each.what.startswith("Packing")]
    return caught.value


def test_a_bucket_that_is_not_there_is_found_first(tutorial: Tutorial, model: Path, bucket: Bucket) -> None:
    told: list[Event] = []
    with tutorial.site(on_event=told.append) as site:
        ready(site, bucket)
        site.credentials.put(bucket.scheme, bucket.credentials)
        error = refused_before_packing(site, model, f"{bucket.scheme}://nobody-made-{bucket.name}/m", told)
        site.credentials.delete(bucket.scheme)
    assert f"There is no bucket nobody-made-{bucket.name} at {bucket.door.url}" in error.message
    assert f"{bucket.scheme}.endpoint" in (error.hint or "")


@pytest.mark.parametrize(
    ("credentials", "hint"),
    [
        # Ceph does not always say more than AccessDenied
        ({"secret_access_key": "wrong"}, "Check the secret key, or ask|The secret key is wrong"),
        ({"access_key_id": "nobody"}, "Check the secret key, or ask|The server does not know the access key"),
        (None, "Uploading needs credentials: medperf auth store s3://"),
    ],
)
def test_who_may_not_upload_is_told_why(
    credentials: Mapping[str, str] | None,
    hint: str,
    tutorial: Tutorial,
    model: Path,
    make_bucket: Callable[[str], Bucket],
) -> None:
    bucket, told = make_bucket("s3"), list[Event]()
    with tutorial.site(on_event=told.append) as site:
        ready(site, bucket, owner=False)
        if credentials is not None:
            site.credentials.put(f"s3://{bucket.name}", {**bucket.credentials, **credentials})
        error = refused_before_packing(site, model, bucket.to, told)
    assert re.search(hint, error.hint or "") and "let everybody read" not in (error.hint or "")
    assert re.search("403 [A-Z]", error.message)  # the server's own word, which no answer to HEAD has


def test_a_forgotten_endpoint_is_thought_of(
    tutorial: Tutorial, model: Path, make_bucket: Callable[[str], Bucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*args: Any, **more: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    bucket, told = make_bucket("s3"), list[Event]()
    with tutorial.site(on_event=told.append) as site:
        ready(site, bucket)
        backends = {**site.profile.backends, "s3": {"attempts": 1, "pause": 0.0}}
        site.profile = site.profiles.update(site.profile_name, {"backends": backends})
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", unknown)
            error = refused_before_packing(site, model, bucket.to, told)
    assert bucket.name in error.message
    assert "no endpoint is set" in (error.hint or "") and "s3.endpoint" in (error.hint or "")


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("s3://", "names no bucket and no folder"),
        ("file:///", "names no bucket and no folder"),
        ("s3:/x", "there must be two slashes behind s3:"),
        ("s3://Walk-Pub/models", "it has capital letters"),
        ("s3://KEYID:hush+hush@bucket/models", "holds a login"),
        ("s3://KEYID:hu/sh@bucket/models", "holds a login"),
        ("s3://bucket:9000/models", "there is a login or a server"),
        ("s3://bucket/models?versionId=hush", "is to be a folder"),
        ("gs://bucket/models#12", "is to be a folder"),
        ("file:share", "does not name a folder by its full path"),
        ("https://example.org/models", "Nothing can be uploaded to https://example.org/models"),
    ],
)
def test_what_is_wrong_with_the_place_is_said_before_packing(
    to: str, words: str, tutorial: Tutorial, model: Path
) -> None:
    told: list[Event] = []
    with tutorial.site(on_event=told.append) as site:
        error = refused_before_packing(site, model, to, told)
    assert words in error.message and error.hint and "hush" not in str(error) and "sh@" not in str(error)


def test_an_interrupted_upload_goes_on_and_nothing_leaves_unasked(
    tutorial: Tutorial, model: Path, bucket: Bucket
) -> None:
    with tutorial.site(approver=DenyAll()) as site:
        ready(site, bucket)
        asked = publish(site, model, bucket.to, name=bucket.name, dry_run=True)
        assert len(asked.files) == 4 and asked.registered is None
        with pytest.raises(DeniedError):
            publish(site, model, bucket.to, name=bucket.name)
        assert not bucket.keys()
    with tutorial.site() as site:
        bucket.door.uploads = 2
        with pytest.raises(TransferError, match="503"):
            publish(site, model, bucket.to, name=bucket.name)
        keys = bucket.keys()
        arrived = {key.rpartition("/")[2] for key in keys}
        assert len(arrived) <= 2
        bucket.door.uploads = 4 - len(arrived)  # as many as are missing
        done = publish(site, model, bucket.to, name=bucket.name)
        assert {each.name for each in done.files if each.there} == arrived
        assert bucket.door.uploads == 0
        again = publish(site, model, bucket.to, name=bucket.name)
        assert all(each.there for each in again.files) and registered(again).uid == registered(done).uid


def test_what_is_there_is_not_replaced(tutorial: Tutorial, model: Path, bucket: Bucket) -> None:
    with tutorial.site() as site:
        ready(site, bucket)
        first = publish(site, model, bucket.to, dry_run=True).files[0]
        for other, words in ((b"?" * first.size, "not what was uploaded"), (b"short", "nothing is overwritten")):
            bucket.put(f"models/{first.sha256}/{first.name}", other)
            with pytest.raises(VerificationError, match=words):
                publish(site, model, bucket.to, name="elsewhere")
        assert site.storage(bucket.scheme).look(first.target) is not None
        assert site.fetch(first.target, origin=Origin.TYPED).size == len(b"short")


def test_each_file_may_be_hosted_elsewhere(
    tutorial: Tutorial, model: Path, make_bucket: Callable[[str], Bucket], tmp_path: Path
) -> None:
    s3, gs = make_bucket("s3"), make_bucket("gs")
    gs.open_to_all()
    with tutorial.site() as site:
        ready(site, s3, gs)
        made = package(site, model, None, tmp_path / "package")
        gs.put("m/mlcube.yaml", (made.folder / "mlcube.yaml").read_bytes())
        gs.put("m/parameters.yaml", (made.folder / "parameters.yaml").read_bytes())
        s3.put("weights/a+b,c.tar.gz", (made.folder / "additional_files.tar.gz").read_bytes())
        hosted = HostedFiles(
            mlcube=f"gs://{gs.name}/m/mlcube.yaml",
            parameters=f"direct:{gs.door.url}/{gs.name}/m/parameters.yaml",
            additional=f"s3://{s3.name}/weights/a+b,c.tar.gz",
            project=(made.folder / "project.tar.gz").as_uri(),
        )
        done = submit_container(site, "scattered", hosted)
    container = getattr(done, "container", None)
    assert container is not None
    urls = {part: source["url"] for part, source in container.metadata["sources"].items()}
    assert urls["mlcube"] == hosted.mlcube and urls["additional"] == hosted.additional
    assert urls["parameters"] == f"{gs.door.url}/{gs.name}/m/parameters.yaml"
    with elsewhere(tutorial, tmp_path, s3, gs, owner=True) as site:
        assert run_test(site, benchmark=1, model=str(container.uid)).results


@pytest.mark.parametrize("engine", ["docker", "singularity"])
def test_an_image_is_hosted_with_the_rest(
    engine: str, request: pytest.FixtureRequest, make_bucket: Callable[[str], Bucket], tmp_path: Path
) -> None:
    tutorial: Tutorial = request.getfixturevalue(engine)
    model, bucket = own_model(tutorial, tmp_path), make_bucket("s3")
    bucket.open_to_all()
    with tutorial.site() as site:
        done = publish(ready(site, bucket), model, bucket.to, name=bucket.name, image=True)
        container = registered(done)
    image = done.files[-1]
    assert image.name.startswith("image.") and image.url.startswith(bucket.public)
    assert container.metadata["sources"]["image"] == {"url": image.url, "sha256": image.sha256}
    kind = {"docker": SourceKind.ARCHIVE, "singularity": SourceKind.SIF}[engine]
    identity = ImageIdentity(IdentityKind(kind.value), f"sha256:{image.sha256}")
    assert identity in container.images()
    with elsewhere(tutorial, tmp_path, bucket, owner=False) as site:
        fetched = site.fetch(image.url, origin=Origin.EMBEDDED, sha256=image.sha256)
        assert not fetched.reused
        prepared = site.runner.prepare(ImageSource(kind, str(fetched.path)), [identity])
        assert set(prepared.identities) & set(container.images())


@pytest.mark.parametrize("to", ["s3://bucket/my models", "gs://bucket/a\\b", "file:///a b", "s3://bucket/\x7f"])
def test_an_address_that_could_not_be_registered_is_refused_first(to: str, tutorial: Tutorial, model: Path) -> None:
    with tutorial.site() as site, pytest.raises(UsageError, match="a blank"):
        publish(site, model, to)
