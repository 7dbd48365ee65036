"""A secret in an address and in a stored login is found nowhere afterwards: not on the screen, not in a file."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from medperf_examples.tutorial import OWNER

from medperf_core.plugin.digest import file_digest
from tests.journeys.conftest import Tutorial

PASSWORD, TOKEN, LOGIN = "planted-password-7d1f", "planted-token-93ac", "planted-login-5be2"
PLANTED = (PASSWORD, TOKEN, LOGIN, base64.b64encode(f"jane:{PASSWORD}".encode()).decode())
Medperf = Callable[..., str]


@contextmanager
def serving(content: bytes) -> Iterator[str]:
    """A web server that wants both secrets and else answers 403 with all that it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            right = PLANTED[-1] in self.headers.get("Authorization", "") and TOKEN in self.path
            right = right and urlsplit(self.path).path == "/demo.tar.gz"
            body = content if right else f"{self.path} {self.headers}".encode()
            self.send_response(200 if right else 403, f"asked for {urlsplit(self.path).path}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://jane:{PASSWORD}@127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def medperf(tutorial: Tutorial, tmp_path: Path) -> Medperf:
    """Runs a command with ``--debug``; all that it shows."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEDPERF_")}
    environment = {**kept, "MEDPERF_HOME": str(tutorial.home), "MEDPERF_PROFILE": OWNER}
    with tutorial.site(OWNER) as site:
        address = site.profile.server
        site.credentials.put(site.login_name(address), {"username": "modelowner", "token": LOGIN})

    def run(*words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "medperf_core.cli", "--debug", *words]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def planted(text: str) -> list[str]:
    return [secret for secret in PLANTED if secret in text]


def test_a_secret_is_found_nowhere(tutorial: Tutorial, medperf: Medperf, tmp_path: Path) -> None:
    demo = tutorial.folder / "demo_dataset.tar.gz"
    words = ["test", "run", "--benchmark", "1", "--model", str(tutorial.model)]
    unknown = ["--demo-dataset-hash", "0" * 64, "--demo-dataset-url"]
    with serving(demo.read_bytes()) as server:
        address = f"{server}/demo.tar.gz?token={TOKEN}"
        shown = [medperf(*words, "--demo-dataset-url", address, "--demo-dataset-hash", file_digest(demo))]
        for wrong, code in ((f"/other.tar.gz?token={TOKEN}", 8), (f"/demo.tar.gz?sig={PASSWORD}", 8)):
            shown.append(medperf(*words, *unknown, f"{server}{wrong}", code=code))
            assert "Traceback" in shown[-1]
    medperf("mlcube", "associate", "--benchmark", "99", "--model_uid", "98", "--yes", code=5)
    shown += [medperf("test", "ls"), medperf("test", "view", "--format", "json"), medperf("logs", "view")]
    medperf("logs", "bundle", str(tmp_path / "logs.tar.gz"))
    with tarfile.open(tmp_path / "logs.tar.gz") as tar:
        packed = [stream.read().decode() for member in tar if (stream := tar.extractfile(member))]
    assert len(packed) > 4
    assert not [planted(text) for text in (*shown, *packed) if planted(text)]
    kept = [path for path in tutorial.home.rglob("*") if path.is_file() and "credentials" not in path.parts]
    assert len(kept) > 10
    assert not [path for path in kept if planted(path.read_bytes().decode("latin-1"))]
