"""Engines that answer otherwise than Docker's interface says, or not at all where they should."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import attrs
import pytest
from medperf_docker.plugin import DockerSettings, make

from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import CancelledError, MedperfError
from medperf_core.plugin import BackendContext, Health

DIGEST = "sha256:" + "d" * 64
GOOD: dict[str, Any] = {
    "/version": {"Version": "28.1", "ApiVersion": "1.44", "Arch": "amd64", "Components": [{"Name": "Engine"}]},
    "/info": {"OSType": "linux", "NCPU": 4, "MemTotal": 1 << 30, "SecurityOptions": ["name=seccomp,profile=default"]},
    "/images/json": [],
    "/images/": {"Id": DIGEST, "RepoDigests": [f"h/x@{DIGEST}"], "RepoTags": ["h/x:1"], "Config": {}},
    "/containers/json": [],
}
INFINITE = float("inf")


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    answers: Mapping[str, Any]


class Handler(BaseHTTPRequestHandler):
    def address_string(self) -> str:
        return "client"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        path = next((path for path in self.server.answers if path in self.path), None)
        answer = self.server.answers[path] if path else {"message": "no such thing"}
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(200 if path else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = do_GET


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts something that answers like a daemon but for these answers; a runner for it."""
    servers = []

    def start(answers: Mapping[str, Any]) -> Any:
        path = tmp_path / f"{len(servers)}.sock"
        server = Server(str(path), Handler)
        server.answers = {**GOOD, **answers}
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        context = BackendContext(tmp_path / "cache", tmp_path / "tmp")
        return make(DockerSettings(host=f"unix://{path}"), context)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_server_without_odd_answers_is_a_daemon(engine: Callable[..., Any]) -> None:
    runner = engine({})
    assert runner.capabilities().engine == "docker 28.1"
    expected = ImageIdentity(IdentityKind.MANIFEST, DIGEST)
    assert runner.prepare(ImageSource(SourceKind.REGISTRY, "h/x:1"), [expected]).reference == DIGEST


@pytest.mark.parametrize("odd", [[], "words", 7, None, {"ApiVersion": []}, {"ApiVersion": "x.y"}, b"<html>", b"\xff{"])
def test_an_odd_version(engine: Callable[..., Any], odd: Any) -> None:
    with pytest.raises(MedperfError, match="Docker"):
        engine({"/version": odd}).capabilities()


@pytest.mark.parametrize("components", [7, [7], ["x"], {"a": 1}])
def test_odd_parts_of_the_version(engine: Callable[..., Any], components: Any) -> None:
    with pytest.raises(MedperfError, match="another form"):
        engine({"/version": {**GOOD["/version"], "Components": components}}).capabilities()


@pytest.mark.parametrize(
    "odd",
    [
        [],
        "words",
        None,
        {"NCPU": "many"},
        {"NCPU": [4]},
        {"MemTotal": INFINITE},
        {"SecurityOptions": 7},
        {"DiscoveredDevices": ["x"]},
        {"Runtimes": 7},
        {"DriverStatus": [7]},
        {"DriverStatus": [[[], "x"]]},
        b"[" * 200_000,
    ],
    ids=lambda odd: repr(odd)[:40],
)
def test_an_odd_account_of_itself(engine: Callable[..., Any], odd: Any) -> None:
    runner = engine({"/info": odd})
    with pytest.raises(MedperfError, match="Docker could not tell about itself") as caught:
        runner.capabilities()
    assert "\n" not in caught.value.message and len(caught.value.message) < 1000
    first = next(iter(runner.doctor()))
    assert (first.health, "could not tell" in first.found) == (Health.FAILED, True)


@pytest.mark.parametrize("own", [[], 7, {"host": {"security": 7}}, {"host": {"cgroupControllers": 7}}])
def test_an_odd_account_of_podman(engine: Callable[..., Any], own: Any) -> None:
    version = {**GOOD["/version"], "Components": [{"Name": "Podman Engine"}]}
    info = {**GOOD["/info"], "MemoryLimit": True}
    try:
        found = engine({"/version": version, "/libpod/info": own, "/info": info}).capabilities()
    except MedperfError as error:
        assert "another form" in error.message
    else:
        assert found.engine == "podman 28.1"


@pytest.mark.parametrize(
    "odd",
    [[], "words", 7, None, {}, {"Id": 7}, {"Id": DIGEST, "RepoDigests": 7}, {"Id": DIGEST, "Config": 7}, b"nonsense"],
    ids=repr,
)
def test_an_odd_image(engine: Callable[..., Any], odd: Any) -> None:
    with pytest.raises(MedperfError):
        engine({"/images/": odd}).prepare(ImageSource(SourceKind.REGISTRY, "h/x:1"))


@pytest.mark.parametrize("odd", [7, [7], [{"Names": 7}], {}, [{"Labels": 7}]], ids=repr)
def test_odd_lists_of_containers_and_images(engine: Callable[..., Any], odd: Any) -> None:
    expected = ImageIdentity(IdentityKind.MANIFEST, "sha256:" + "e" * 64)
    runner = engine({"/containers/json": odd, "/images/json": odd})
    with pytest.raises(MedperfError):  # the image is another one
        runner.prepare(ImageSource(SourceKind.REGISTRY, "h/x:1"), [expected])
    assert all(check.found for check in runner.doctor())


@attrs.define
class Silent:
    """Stands before a real daemon and lets all through but the requests whose first line has these words."""

    path: Path
    target: str
    words: bytes
    swallowed: threading.Event = attrs.field(factory=threading.Event)

    def serve(self) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.path))
            listener.listen()
            self.path.with_suffix(".ready").touch()
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self.target)
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, target), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if self.words in data.split(b"\r\n", 1)[0]:
                    self.swallowed.set()
                else:
                    target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one side has gone


@pytest.fixture
def silent(site: Any, tmp_path: Path) -> Callable[[bytes], tuple[Any, Silent]]:
    """The site with a daemon that is silent on some requests."""

    def start(words: bytes) -> tuple[Any, Silent]:
        proxy = Silent(tmp_path / "silent.sock", site.host.removeprefix("unix://"), words)
        threading.Thread(target=proxy.serve, daemon=True).start()
        while not proxy.path.with_suffix(".ready").exists():
            pass
        return attrs.evolve(site, host=f"unix://{proxy.path}"), proxy

    return start


def test_an_end_that_the_engine_never_tells_is_noticed(silent: Callable[[bytes], tuple[Any, Silent]]) -> None:
    site, proxy = silent(b"/wait")
    outcome = site.run("echo done; exit 3")
    assert proxy.swallowed.is_set()
    assert (outcome.exit_code, outcome.tail) == (3, ("done",))


def test_a_time_limit_holds_although_the_engine_never_tells_the_end(
    silent: Callable[[bytes], tuple[Any, Silent]],
) -> None:
    site, _ = silent(b"/wait")
    outcome = site.run("echo begun; exec sleep 60", time_limit=0.5)
    assert outcome.timed_out and outcome.exit_code == 137


def test_cancelling_ends_the_wait_for_output_that_is_never_sent(
    silent: Callable[[bytes], tuple[Any, Silent]],
) -> None:
    site, proxy = silent(b"/attach")

    def cancel() -> None:
        proxy.swallowed.wait()
        site.cancel.cancel()

    threading.Thread(target=cancel, daemon=True).start()
    with pytest.raises(CancelledError):
        site.run("true")
