"""Images of registries: real ones, and one that lies."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs
import pytest
from medperf_singularity import store
from medperf_singularity.files import remove_tree
from medperf_singularity.images import client
from medperf_singularity.images.login import login

from medperf_core.entities import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import (
    AuthenticationError,
    ConfigurationError,
    ExecutionError,
    MedperfError,
    OfflineError,
    TransferError,
    VerificationError,
)
from medperf_core.plugin import StepStarted
from medperf_core.plugin.image_reference import Reference
from tests.engines import require

NAME = "medperf-test/model"
TAR = "application/vnd.oci.image.layer.v1.tar"
SECRET = "correct-horse-battery"


def registry(name: str) -> ImageSource:
    return ImageSource(SourceKind.REGISTRY, name)


@pytest.fixture
def host() -> str:
    return require("registry")["MEDPERF_TEST_REGISTRY"]


@pytest.mark.parametrize("pack", ["none", "gzip", "zstd"])
def test_an_image_is_pulled_by_tag_and_by_digest(
    place: Any, make_image: Callable[..., Any], host: str, pack: str
) -> None:
    image = make_image(pack=pack, Entrypoint=["/bin/echo"])
    name = image.push(host, NAME, "by-tag")
    prepared = place.runner().prepare(registry(name))
    assert set(prepared.identities) == {image.config_identity, image.manifest_identity}
    assert store.describe(place.context(), prepared).entrypoint == ("/bin/echo",)
    assert place.work() == []
    place.events.clear()
    for source in (name, f"{host}/{NAME}@{image.manifest_identity.digest}"):
        for expected in ([image.manifest_identity], [image.config_identity], prepared.identities):
            assert place.runner(offline=True).prepare(registry(source), expected).reference == prepared.reference
    assert place.told(StepStarted, "") == []


def test_the_same_image_of_an_archive_is_not_converted_again(
    place: Any, make_image: Callable[..., Any], host: str, tmp_path: Path
) -> None:
    image = make_image()
    image.save(tmp_path / "image.tar")
    first = place.runner().prepare(ImageSource(SourceKind.ARCHIVE, str(tmp_path / "image.tar")))
    place.events.clear()
    second = place.runner().prepare(registry(image.push(host, NAME, "same")))
    assert second.reference == first.reference
    assert place.told(StepStarted, "Pulling") == place.told(StepStarted, "Converting") == []


def test_a_tag_that_moved_is_followed_and_offline_means_what_it_last_was(
    place: Any, make_image: Callable[..., Any], host: str
) -> None:
    first, second = make_image(), make_image()
    name = first.push(host, NAME, "moving")
    assert first.config_identity in place.runner().prepare(registry(name)).identities
    second.push(host, NAME, "moving")
    assert second.config_identity in place.runner().prepare(registry(name)).identities
    assert second.config_identity in place.runner(offline=True).prepare(registry(name)).identities
    with pytest.raises(VerificationError, match="not the recorded one"):  # the tag has another one now
        type(place)(place.folder / "other", place.program).runner().prepare(registry(name), [first.config_identity])
    assert first.config_identity in place.runner().prepare(registry(name), [first.config_identity]).identities


def test_an_index_gives_the_image_for_this_machine(place: Any, make_image: Callable[..., Any], host: str) -> None:
    mine, other = make_image(), make_image(architecture="s390x")
    kinds = {"amd64": mine, "s390x": other}
    for kind, image in kinds.items():
        image.push(host, NAME, f"of-{kind}")
    entries = [
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.manifest_identity.digest,
            "size": len(image.manifest),
            "platform": {"architecture": kind, "os": "linux"},
        }
        for kind, image in reversed(kinds.items())
    ]
    push_index(host, "both", entries)
    prepared = place.runner().prepare(registry(f"{host}/{NAME}:both"))
    assert mine.config_identity in prepared.identities
    assert sum(each.kind is IdentityKind.MANIFEST for each in prepared.identities) == 2
    push_index(host, "foreign", entries[:1])
    with pytest.raises(ExecutionError, match=r"not there for this machine.*s390x"):
        place.runner().prepare(registry(f"{host}/{NAME}:foreign"))


def push_index(host: str, tag: str, entries: list[Any]) -> None:
    import requests

    kind = "application/vnd.oci.image.index.v1+json"
    data = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries})
    address = f"http://{host}/v2/{NAME}/manifests/{tag}"
    requests.put(address, data=data, headers={"Content-Type": kind}, timeout=30).raise_for_status()


def test_wrong_digests_keep_nothing(place: Any, make_image: Callable[..., Any], host: str) -> None:
    name = make_image().push(host, NAME, "wrong")
    for kind in (IdentityKind.MANIFEST, IdentityKind.CONFIG):
        with pytest.raises(VerificationError, match="not the recorded one"):
            place.runner().prepare(registry(name), [ImageIdentity(kind, f"sha256:{'0' * 64}")])
    with pytest.raises(VerificationError, match="cannot be verified"):
        place.runner().prepare(registry(name), [ImageIdentity(IdentityKind.ARCHIVE, f"sha256:{'0' * 64}")])
    with pytest.raises(ExecutionError, match="does not have"):
        place.runner().prepare(registry(f"{host}/{NAME}:never-pushed"))
    with pytest.raises(OfflineError):
        place.runner(offline=True).prepare(registry(name))
    assert place.kept() == place.work() == []


def test_layers_of_another_configuration_are_refused(place: Any, make_image: Callable[..., Any], host: str) -> None:
    true, other = make_image(pack="gzip"), make_image(pack="gzip")
    forged = type(true)(true.config, other.layers)
    with pytest.raises(VerificationError, match="not those that its configuration names"):
        place.runner().prepare(registry(forged.push(host, NAME, "forged")), [true.config_identity])
    assert place.kept() == place.work() == []


@pytest.fixture
def closed() -> tuple[str, tuple[str, str]]:
    found = require("registry-auth")
    login_ = found["MEDPERF_TEST_REGISTRY_USER"], found["MEDPERF_TEST_REGISTRY_PASSWORD"]
    return found["MEDPERF_TEST_REGISTRY_AUTH"], login_


def test_a_login_of_the_site_or_of_docker_opens_a_closed_registry(
    place: Any,
    make_image: Callable[..., Any],
    closed: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, (user, password) = closed
    image = make_image()
    name = image.push(host, NAME, "closed", (user, password))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(AuthenticationError, match="wants a login"):
        place.runner().prepare(registry(name))
    wrong = {"username": user, "password": SECRET}
    with pytest.raises(AuthenticationError, match="refuses this login") as caught:
        place.runner(credentials=lambda key: wrong if key == host else None).prepare(registry(name))
    assert SECRET not in str(caught.value)
    mine = {"username": user, "password": password}
    place.runner(credentials=lambda key: mine if key == host else None).prepare(registry(name))
    (tmp_path / "docker").mkdir()
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    other = type(place)(tmp_path / "other", place.program)
    assert other.runner().prepare(registry(name)).identities
    for site in (place, other):  # neither in what was told nor in what was kept
        for text in (password, auth):
            assert text not in "".join(map(str, site.events))
            for path in site.folder.rglob("*"):
                assert not path.is_file() or text.encode() not in path.read_bytes()[: 4 << 20] or "docker" in str(path)


def test_a_credential_helper_is_asked(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-medperf"
    helper.write_text('#!/bin/sh\nread host\necho "{\\"Username\\": \\"$host\\", \\"Secret\\": \\"s\\"}"\n')
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {"host:5000": "medperf", "bad": "../x"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert login(place.context(), "host:5000") == ("host:5000", "s")
    assert login(place.context(), "bad") is None
    assert login(place.context(), "other") is None
    helper.write_text("#!/bin/sh\necho '{}'\n")
    assert login(place.context(), "host:5000") is None
    for text in ("", "[]", '{"auths": 3}', '{"auths": {"other": {"auth": "%%%"}}}', '{"auths": {"other": []}}'):
        (tmp_path / "config.json").write_text(text)
        assert login(place.context(), "other") is None


@attrs.define
class Liar:
    """A registry whose answers a test writes: path -> (status, headers, body). What it was asked is in ``asked``."""

    server: ThreadingHTTPServer
    answers: dict[str, Any] = attrs.field(factory=dict)
    asked: list[tuple[str, str]] = attrs.field(factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def serve(self, image: Any, tag: str = "1") -> str:
        kind = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        for what in (tag, image.manifest_identity.digest):
            self.answers[f"/v2/{NAME}/manifests/{what}"] = (200, kind, image.manifest)
        document = json.loads(image.manifest)
        digests = [document["config"]["digest"], *(layer["digest"] for layer in document["layers"])]
        for digest, blob in zip(digests, (image.config, *image.layers), strict=True):
            self.answers[f"/v2/{NAME}/blobs/{digest}"] = (200, {}, blob)
        return f"{self.host}/{NAME}:{tag}"


@pytest.fixture
def liars() -> Iterator[Callable[[], Liar]]:
    servers = []

    def start() -> Liar:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                liar.asked.append((self.path, self.headers.get("Authorization", "")))
                found = liar.answers.get(self.path.partition("?")[0], (404, {}, b""))
                status, headers, body = found(self) if callable(found) else found
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    pass
                if int(headers.get("Content-Length", len(body))) > len(body):
                    self.close_connection = True

            def log_message(self, format: str, *arguments: Any) -> None:
                return

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                return  # clients hang up on liars

        liar = Liar(Server(("127.0.0.1", 0), Handler))
        threading.Thread(target=liar.server.serve_forever, daemon=True).start()
        servers.append(liar.server)
        return liar

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def liar(liars: Callable[[], Liar]) -> Liar:
    return liars()


def manifest(**changes: Any) -> bytes:
    layer: dict[str, Any] = {"mediaType": TAR, "digest": f"sha256:{'1' * 64}", "size": 10}
    whole = {"schemaVersion": 2, "config": {"digest": f"sha256:{'2' * 64}"}, "layers": [layer]}
    layer |= changes.pop("layer", {})
    return json.dumps({**whole, **changes}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{" * 100_000,
        b"[" * 100_000,
        b" " * (5 << 20),
        manifest(schemaVersion=1),
        manifest(layers={}),
        manifest(layers=[None]),
        manifest(config={"digest": "../../etc/passwd"}),
        manifest(config=None),
        manifest(layer={"digest": "sha256:../../../tmp/x"}),
        manifest(layer={"size": -1}),
        manifest(layer={"size": True}),
        manifest(layer={"urls": ["http://127.0.0.1/elsewhere"]}),
        manifest(layer={"mediaType": "application/zip"}),
        manifest(manifests="all of them"),
        manifest(manifests=[{"digest": "../x", "platform": {"os": "linux", "architecture": "amd64"}}]),
    ],
)
def test_hostile_manifests_are_refused(place: Any, liar: Liar, body: bytes) -> None:
    liar.answers[f"/v2/{NAME}/manifests/1"] = (200, {}, body)
    with pytest.raises(MedperfError):
        place.runner().prepare(registry(f"{liar.host}/{NAME}:1"))
    assert place.kept() == place.work() == []


def test_a_layer_without_an_end_or_of_impossible_size_is_refused(
    place: Any, liar: Liar, make_image: Callable[..., Any]
) -> None:
    image = make_image()
    name = liar.serve(image)
    layer = f"/v2/{NAME}/blobs/{json.loads(image.manifest)['layers'][1]['digest']}"
    liar.answers[layer] = (200, {}, image.layers[1] + b"more")
    with pytest.raises(VerificationError, match="sends more"):
        place.runner().prepare(registry(name))
    liar.answers[layer] = (200, {}, bytes(len(image.layers[1])))
    with pytest.raises(VerificationError, match="something else"):
        place.runner().prepare(registry(name))
    huge = json.loads(image.manifest)
    huge["layers"][1]["size"] = 1 << 60
    liar.answers[f"/v2/{NAME}/manifests/1"] = (200, {}, json.dumps(huge).encode())
    with pytest.raises(ExecutionError, match="no room to pull"):
        place.runner().prepare(registry(name))
    assert place.kept() == place.work() == []


def test_a_manifest_that_is_not_the_digest_asked_for_is_refused(
    place: Any, liar: Liar, make_image: Callable[..., Any]
) -> None:
    image, other = make_image(), make_image()
    liar.serve(image)
    wanted = other.manifest_identity
    liar.answers[f"/v2/{NAME}/manifests/{wanted.digest}"] = (200, {}, image.manifest)
    with pytest.raises(VerificationError, match="when asked for"):
        place.runner().prepare(registry(f"{liar.host}/{NAME}:1"), [wanted])


def test_a_layer_that_breaks_off_is_gone_on_with(
    place: Any, liar: Liar, make_image: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PAUSE", 0.01)
    image = make_image()
    name = liar.serve(image)
    layer = f"/v2/{NAME}/blobs/{json.loads(image.manifest)['layers'][0]['digest']}"
    whole, ranges = image.layers[0], []

    def part(handler: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        ranges.append(start)
        rest = whole[start:]
        headers = {"Content-Length": str(len(rest))}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        return (206 if start else 200), headers, rest[: max(len(rest) // 2, 300_000)]

    liar.answers[layer] = part
    prepared = place.runner().prepare(registry(name))
    assert image.config_identity in prepared.identities
    assert ranges[0] == 0 and len(ranges) > 1 and all(ranges[1:])


def test_a_registry_that_fails_on_and_on_is_given_up(place: Any, liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSE", 0.01)
    liar.answers[f"/v2/{NAME}/manifests/1"] = (503, {}, b"")
    with pytest.raises(TransferError, match=r"503.*attempt 4"):
        place.runner().prepare(registry(f"{liar.host}/{NAME}:1"))


def test_a_login_goes_to_its_registry_and_nowhere_else(
    place: Any, liars: Callable[[], Liar], make_image: Callable[..., Any]
) -> None:
    first, elsewhere = liars(), liars()
    image = make_image()
    name = first.serve(image)
    layer = f"/v2/{NAME}/blobs/{json.loads(image.manifest)['layers'][0]['digest']}"
    first.answers[layer] = (307, {"Location": f"http://{elsewhere.host}/blob"}, b"")
    elsewhere.answers["/blob"] = (200, {}, image.layers[0])
    plain = first.answers[f"/v2/{NAME}/manifests/1"]

    def asks(handler: BaseHTTPRequestHandler) -> Any:
        if handler.headers.get("Authorization"):
            return plain
        return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""

    first.answers[f"/v2/{NAME}/manifests/1"] = asks
    mine = {"username": "me", "password": SECRET}
    place.runner(credentials=lambda key: mine if key == first.host else None).prepare(registry(name))
    assert [login_ for path, login_ in first.asked if path.endswith("/1")][-1].startswith("Basic ")
    assert elsewhere.asked == [("/blob", "")]


def test_a_token_server_is_asked_and_its_token_used(
    place: Any, liars: Callable[[], Liar], make_image: Callable[..., Any]
) -> None:
    first, tokens = liars(), liars()
    image = make_image()
    name = first.serve(image)
    for path, answer in list(first.answers.items()):

        def asks(handler: BaseHTTPRequestHandler, answer: Any = answer) -> Any:
            if handler.headers.get("Authorization") == "Bearer a.b-c":
                return answer
            challenge = f'Bearer realm="http://{tokens.host}/token?x=1",service="s",scope="repository:other:push"'
            return 401, {"WWW-Authenticate": challenge}, b""

        first.answers[path] = asks
    tokens.answers["/token"] = (200, {}, b'{"token": "a.b-c"}')
    mine = {"username": "me", "password": SECRET}
    place.runner(credentials=lambda key: mine).prepare(registry(name))
    ((asked, login_),) = tokens.asked
    assert login_.startswith("Basic ")
    assert asked == f"/token?service=s&scope=repository%3A{NAME.replace('/', '%2F')}%3Apull"
    for body in (b"", b"{}", b'{"token": 3}', b'{"token": "a\\r\\nX: y"}', b"[" * 5000):
        tokens.answers["/token"] = (200, {}, body)
        with pytest.raises(AuthenticationError, match="no token"):
            type(place)(place.folder / "other", place.program).runner().prepare(registry(name))


def test_a_registry_with_a_private_authority_is_trusted_by_ca_bundle_only(
    place: Any, make_image: Callable[..., Any]
) -> None:
    nginx = require("nginx")
    name = f"medperf-test/tls-{os.getpid()}"
    root = Path(nginx["MEDPERF_TEST_NGINX_ROOT"]) / "v2" / name
    image = make_image()
    for part in ("manifests", "blobs"):
        (root / part).mkdir(parents=True)
    try:
        (root / "manifests" / "1").write_bytes(image.manifest)
        for blob in (image.config, *image.layers):
            (root / "blobs" / f"sha256:{hashlib.sha256(blob).hexdigest()}").write_bytes(blob)
        source = registry(f"{nginx['MEDPERF_TEST_NGINX_HTTPS'].removeprefix('https://')}/{name}:1")
        with pytest.raises(TransferError, match="not trusted"):
            place.runner().prepare(source)
        with pytest.raises(ConfigurationError, match="ca_bundle"):
            place.runner(ca_bundle=place.folder / "none.pem").prepare(source)
        prepared = place.runner(ca_bundle=Path(nginx["MEDPERF_TEST_NGINX_CA"])).prepare(source)
        assert image.config_identity in prepared.identities
    finally:
        remove_tree(root)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_to_elsewhere_are_not_followed(place: Any, liar: Liar, target: str) -> None:
    liar.answers[f"/v2/{NAME}/manifests/1"] = (302, {"Location": target}, b"")
    with pytest.raises(MedperfError, match="not followed"):
        place.runner().prepare(registry(f"{liar.host}/{NAME}:1"))


def test_redirects_without_end_are_not_followed(place: Any, liar: Liar) -> None:
    path = f"/v2/{NAME}/manifests/1"
    liar.answers[path] = (302, {"Location": path}, b"")
    with pytest.raises(TransferError, match="more than 5 times"):
        place.runner().prepare(registry(f"{liar.host}/{NAME}:1"))


def test_which_schemes_are_tried(place: Any) -> None:
    def schemes(name: str, **changes: Any) -> tuple[str, ...]:
        return client.Registry(place.context(**changes), Reference.parse(name))._schemes()

    plain = frozenset({"plain-http"})
    assert schemes("127.0.0.1:5000/x:1") == ("http", "https")
    assert schemes("localhost:5000/x:1") == ("http", "https")
    assert schemes("registry.example/x:1") == ("https",)
    assert schemes("registry.example/x:1", waivers=plain) == ("https", "http")


@pytest.mark.parametrize(
    ("name", "host", "repository"),
    [
        ("busybox", "docker.io", "library/busybox"),
        ("user/model", "docker.io", "user/model"),
        ("docker.io/busybox", "docker.io", "library/busybox"),
        ("localhost/medperf/x", "localhost", "medperf/x"),
        ("host:5000/x", "host:5000", "x"),
        ("registry.example/a/b/c", "registry.example", "a/b/c"),
        ("[::1]:5000/x", "[::1]:5000", "x"),
    ],
)
def test_hosts_are_read_as_docker_reads_them(name: str, host: str, repository: str) -> None:
    assert client.split(name) == (host, repository)


@pytest.mark.parametrize(
    "host", ["localhost:5000", "127.1", "0.0.0.0:80", "0x7f000001", "[::ffff:127.0.0.1]:443", "[::]"]
)
def test_this_machine_is_known_however_a_registry_writes_it(host: str) -> None:
    assert client.is_here(host)


def test_who_shares_a_domain() -> None:
    assert client.same_domain("auth.docker.io", "registry-1.docker.io")
    assert client.same_domain("gitlab.example.org:443", "registry.example.org:5050")
    assert client.same_domain("127.0.0.1:1", "127.0.0.1:2")
    assert not client.same_domain("evil.example.com", "registry.example.org")
    assert not client.same_domain("127.0.0.1", "10.0.0.1")
    assert not client.same_domain("localhost", "registry")


@pytest.fixture
def docker_image(make_image: Callable[..., Any], tmp_path: Path) -> Iterator[tuple[str, str, Any]]:
    """An image of the local Docker daemon: the daemon's address, the image's name, and what it was made of."""
    docker = pytest.importorskip("docker")
    address = require("docker")["DOCKER_HOST"]
    image = make_image(Entrypoint=["/bin/echo"])
    image.save(tmp_path / "for-docker.tar")
    name = f"localhost/medperf-test/singularity-{os.getpid()}:1"
    with docker.APIClient(base_url=address, version="auto", timeout=120) as daemon:
        with (tmp_path / "for-docker.tar").open("rb") as stream:
            list(daemon.load_image(stream))
        daemon.tag(image.config_identity.digest, *name.split(":"))
        yield address, name, image
        daemon.remove_image(image.config_identity.digest, force=True)


def test_an_image_of_the_local_docker_is_taken_without_a_registry(place: Any, docker_image: Any) -> None:
    address, name, image = docker_image
    runner = place.runner({"docker_host": address}, offline=True)
    prepared = runner.prepare(registry(name))
    assert image.config_identity in prepared.identities
    assert store.describe(place.context(), prepared).entrypoint == ("/bin/echo",)
    place.events.clear()
    assert runner.prepare(registry(name)) == prepared
    assert runner.prepare(registry(name), [image.config_identity]).reference == prepared.reference
    assert place.told(StepStarted, "") == [] and place.work() == []
    with pytest.raises(OfflineError):
        runner.prepare(registry(name), [ImageIdentity(IdentityKind.CONFIG, f"sha256:{'0' * 64}")])
    with pytest.raises(OfflineError):
        place.runner({"docker_host": address}, offline=True).prepare(registry("localhost/medperf-test/none:1"))
    elsewhere = type(place)(place.folder / "other", place.program)
    with pytest.raises(OfflineError):
        elsewhere.runner({"docker_host": "unix:///nonexistent.sock"}, offline=True).prepare(registry(name))


def test_neither_the_engine_nor_its_arguments_learn_of_a_login(
    place: Any, make_image: Callable[..., Any], closed: Any, tmp_path: Path
) -> None:
    host, (user, password) = closed
    name = make_image().push(host, NAME, "argv", (user, password))
    seen = tmp_path / "seen"
    wrapper = tmp_path / "apptainer"
    wrapper.write_text(f'#!/bin/sh\n{{ echo "$@"; env; }} >> {seen}\nexec {place.program} "$@"\n')
    wrapper.chmod(0o755)
    mine = {"username": user, "password": password}
    runner = place.runner({"program": str(wrapper)}, credentials=lambda key: mine if key == host else None)
    runner.prepare(registry(name))
    text = seen.read_text()
    assert "build" in text and "APPTAINER_TMPDIR" in text
    assert password not in text and base64.b64encode(f"{user}:{password}".encode()).decode() not in text
    variables = {line.partition("=")[0] for line in text.splitlines() if line.startswith(("APPTAINER", "SINGULARITY"))}
    assert variables == {"APPTAINER_CACHEDIR", "APPTAINER_TMPDIR", "APPTAINER_CONFIGDIR"}
