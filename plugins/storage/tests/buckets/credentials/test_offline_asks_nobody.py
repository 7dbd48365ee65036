"""With --offline, no service of credentials and no proxy is asked for anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from socket import create_server
from typing import Any

import attrs
import pytest

from medperf_core.errors import MedperfError, OfflineError
from medperf_storage.gcs import GcsStorage
from medperf_storage.object_settings import GcsSettings, S3Settings
from medperf_storage.s3 import S3Storage


class Listener:
    """Takes connections, counts and closes them."""

    def __init__(self) -> None:
        self.count = 0
        self._socket = create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.count += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch, google_metadata: Any, tmp_path: Path) -> Iterator[Listener]:
    """Stands for every service that credentials could come from, for the proxy and for the servers of buckets."""
    listener = Listener()
    url = f"http://{listener.place}"
    google_metadata(url)
    (tmp_path / "token").write_text("token")
    for name in (
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_STS",
        "AWS_ENDPOINT_URL_SSO",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    ):
        monkeypatch.setenv(name, url)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/container")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, url)
    yield listener
    listener.close()


SOURCES = ("metadata", "web identity")


def web_identity(listener: Listener, monkeypatch: pytest.MonkeyPatch, adc: Any, folder: Path) -> None:
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/reader")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(folder / "token"))
    adc(
        {
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": f"http://{listener.place}/v1/token",
            "credential_source": {"file": str(folder / "token")},
        }
    )


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_store(
    source: str,
    scheme: str,
    listener: Listener,
    visitor: Any,
    monkeypatch: pytest.MonkeyPatch,
    adc: Any,
    tmp_path: Path,
) -> None:
    if source == "web identity":
        web_identity(listener, monkeypatch, adc, tmp_path)
    server = f"http://{listener.place}"

    def store(context: Any) -> Any:
        if scheme == "s3":
            return S3Storage(S3Settings(endpoint=server, attempts=1), context)
        return GcsStorage(GcsSettings(endpoint=server, attempts=1), context)

    offline = attrs.evolve(visitor, context=attrs.evolve(visitor.context, offline=True))
    for use in (
        lambda each: offline.fetch(each, f"{scheme}://bucket/key"),
        lambda each: each.look(f"{scheme}://bucket/key"),
        lambda each: offline.put(each, f"{scheme}://bucket/key", b"x"),
    ):
        with pytest.raises(OfflineError):
            use(store(offline.context))
    assert listener.count == 0
    with pytest.raises(MedperfError):
        visitor.fetch(store(visitor.context), f"{scheme}://bucket/key")
    assert listener.count


def test_commands(listener: Listener, monkeypatch: pytest.MonkeyPatch, adc: Any, tmp_path: Path) -> None:
    web_identity(listener, monkeypatch, adc, tmp_path)
    (tmp_path / "key.json").write_text(json.dumps({"type": "service_account"}))
    environment = {**os.environ, "MEDPERF_HOME": str(tmp_path / "site")}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "medperf_core.cli", "--offline", *words]
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)

    assert run("auth", "store", "gs", "--from", f"service_account={tmp_path}/key.json").returncode == 0
    assert run("auth", "stored").stdout.count("gs") >= 1
    assert run("auth", "forget", "gs").returncode == 0
    assert "names no server" in run("auth", "status").stderr
    assert "docker" in run("doctor").stdout
    for scheme in ("s3", "gs"):
        done = run("mlcube", "submit", "-n", "x", "-m", f"{scheme}://bucket/mlcube.yaml")
        assert "Offline: fetching" in done.stderr
    assert listener.count == 0
