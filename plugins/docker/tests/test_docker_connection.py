"""Finding the daemon as docker does, and saying why it cannot be used."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from medperf_docker.connect import find_endpoint
from medperf_docker.plugin import DockerSettings, make, medperf_runners

from medperf_core.errors import ExecutionError, OfflineError
from medperf_core.plugin import BackendContext, Health
from medperf_core.plugin.settings import fields_of, make_settings


@pytest.fixture(autouse=True)
def docker_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker configuration of this test's own, and none of the caller's variables."""
    folder = tmp_path / "config" / ".docker"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    return folder


def runner(tmp_path: Path, host: str, **context: Any) -> Any:
    return make(DockerSettings(host=host), BackendContext(tmp_path / "cache", tmp_path / "tmp", **context))


def add_context(folder: Path, name: str, host: str) -> Path:
    key = hashlib.sha256(name.encode()).hexdigest()
    meta = folder / "contexts" / "meta" / key / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": host}}}))
    tls = folder / "contexts" / "tls" / key / "docker"
    tls.mkdir(parents=True)
    return tls


def test_order_of_places(docker_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_endpoint("").address == "unix:///var/run/docker.sock"
    add_context(docker_config, "current", "unix:///current.sock")
    add_context(docker_config, "named", "unix:///named.sock")
    (docker_config / "config.json").write_text('{"currentContext": "current"}')
    assert find_endpoint("").address == "unix:///current.sock"
    monkeypatch.setenv("DOCKER_CONTEXT", "named")
    assert find_endpoint("").address == "unix:///named.sock"
    monkeypatch.setenv("DOCKER_HOST", "unix:///variable.sock")
    assert find_endpoint("").address == "unix:///variable.sock"
    assert find_endpoint("unix:///setting.sock").address == "unix:///setting.sock"
    assert find_endpoint("unix:///setting.sock").socket == "/setting.sock"


def test_tls_of_a_context(docker_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = add_context(docker_config, "remote", "tcp://127.0.0.1:2376")
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tls / name).write_text("")
    (docker_config / "config.json").write_text("{}")
    monkeypatch.setenv("DOCKER_CONTEXT", "remote")
    found = find_endpoint("")
    assert found.address == "tcp://127.0.0.1:2376"
    assert found.arguments["tls"].cert == (str(tls / "cert.pem"), str(tls / "key.pem"))
    assert found.socket is None


def test_a_context_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONTEXT", "gone")
    with pytest.raises(ExecutionError, match="gone"):
        find_endpoint("")


def test_tls_files_that_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path / "gone"))
    with pytest.raises(ExecutionError, match="DOCKER_CERT_PATH"):
        find_endpoint("tcp://127.0.0.1:2376")


def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match=r"unix:///gone\.sock cannot be used: no daemon.*DOCKER_HOST"):
        runner(tmp_path, "unix:///gone.sock").capabilities()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ExecutionError, match="no daemon is running"):
            runner(tmp_path, host).capabilities()


def test_doctor_tells_it_too(tmp_path: Path) -> None:
    (check,) = runner(tmp_path, "unix:///gone.sock").doctor()
    assert check.health is Health.FAILED
    assert "gone.sock" in check.found and "DOCKER_HOST" in check.advice


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_no_right_to_use_the_socket(site: Any) -> None:
    site.runner().capabilities()  # imports everything
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(12345)
            os.setuid(12345)
            site.runner().capabilities()
        except ExecutionError as error:
            code = 0 if "may not use its socket" in str(error) and "group" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_tls_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener that speaks no TLS."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=x",
            "-days",
            "1",
            "-keyout",
            folder / "key.pem",
            "-out",
            folder / "cert.pem",
        ],
        check=True,
        capture_output=True,
    )
    (folder / "ca.pem").write_bytes((folder / "cert.pem").read_bytes())
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(folder))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            taken = listener.accept()[0]
            taken.recv(100)
            taken.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
            taken.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ExecutionError, match="TLS"):
            runner(tmp_path, f"tcp://127.0.0.1:{listener.getsockname()[1]}").capabilities()


def test_offline_asks_no_daemon_over_the_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        with pytest.raises(OfflineError):
            runner(tmp_path, f"tcp://127.0.0.1:{listener.getsockname()[1]}", offline=True).capabilities()
        with pytest.raises(TimeoutError):
            listener.accept()


def test_the_plugin_is_light() -> None:
    code = (
        "import sys, medperf_docker.plugin as p; list(p.medperf_runners()); "
        "print([name for name in ('docker', 'requests', 'medperf_docker.runner') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_making_a_runner_opens_and_imports_nothing_of_docker(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, medperf_docker.plugin as p; from medperf_core.plugin import BackendContext; "
        "p.make(p.DockerSettings(host='unix:///gone'), BackendContext(pathlib.Path('x'), pathlib.Path('y'))); "
        "print('docker' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_settings_and_entry_point() -> None:
    from importlib.metadata import entry_points

    (plugin,) = medperf_runners()
    assert plugin.name == "docker" and plugin.api == plugin.API
    (point,) = entry_points(group="medperf", name="docker")
    assert point.load().medperf_runners
    assert all(field.help for field in fields_of("docker", plugin.settings))
    made = make_settings(
        "docker",
        DockerSettings,
        options={"build_args": ("A=1", "B=2")},
        environment={"MEDPERF_DOCKER_HOST": "unix:///x"},
        profile={"run_as": "5:6"},
    )
    assert made == DockerSettings("unix:///x", "5:6", ("A=1", "B=2"))


def test_supported_sources(tmp_path: Path) -> None:
    from medperf_core.entities import ImageSource, SourceKind

    made = runner(tmp_path, "unix:///gone.sock")
    for kind, supported in (
        (SourceKind.REGISTRY, True),
        (SourceKind.ARCHIVE, True),
        (SourceKind.SIF, False),
        (SourceKind.TREE, False),
    ):
        assert made.supports(ImageSource(kind, "x")) is supported
    assert made.supports(ImageSource(SourceKind.TREE, "x", dockerfile="Dockerfile"))
