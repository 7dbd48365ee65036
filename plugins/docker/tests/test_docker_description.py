"""What is read from a daemon's answers and what it is told, for engines and devices that are not here."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import attrs
import pytest
from medperf_docker import build, images
from medperf_docker.account import Account, account
from medperf_docker.connect import Connection, Endpoint, engine_error
from medperf_docker.container import Container, Watched, command_line, describe, device_requests
from medperf_docker.daemon import Daemon, capabilities, read
from medperf_docker.plugin import DockerSettings
from medperf_docker.processes import SPARE
from medperf_docker.syscalls import find_filter

from medperf_core.entities import (
    CommandStyle,
    IdentityKind,
    ImageIdentity,
    ImageSource,
    SourceKind,
    TaskSpec,
    VolumeKind,
    VolumeSpec,
)
from medperf_core.errors import ConfigurationError, ExecutionError
from medperf_core.plugin import BackendContext, Enforcement, Gpus, Guarantee, Limit, Mount, Resources, TaskRequest
from medperf_core.plugin.handover import parse_account
from medperf_core.plugin.identities import agrees
from medperf_core.plugin.layout import Bind, nested
from medperf_core.plugin.seccomp import profile

INFO: dict[str, Any] = {
    "ID": "X",
    "OSType": "linux",
    "Driver": "overlay2",
    "DockerRootDir": "/var/lib/docker",
    "NCPU": 4,
    "MemoryLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "SecurityOptions": ["name=seccomp,profile=default"],
    "Runtimes": {"runc": {}},
    "DriverStatus": [["Backing Filesystem", "extfs"]],
}
VERSION: dict[str, Any] = {"Version": "28.1", "ApiVersion": "1.49", "Arch": "amd64", "Components": [{"Name": "Engine"}]}
UNIX = Endpoint("unix:///gone.sock", {})
DIGEST = "sha256:" + "d" * 64


def daemon(**info: Any) -> Daemon:
    return read({**INFO, **info}, VERSION)


def container(gpus: str | None = None, found: Daemon | None = None, **resources: Any) -> Container:
    task = TaskSpec("infer", (), CommandStyle.FIXED, entrypoint=("/run",))
    request = TaskRequest(task, (), Path("log"), Resources(gpus=Gpus.parse(gpus), **resources))
    return describe({}, DIGEST, request, Account("5:6", 5, 6), found or daemon(), None, "0123")


@pytest.mark.parametrize(
    ("asked", "request_", "words"),
    [
        ("all", {"Count": -1, "DeviceIDs": []}, "--gpus=all"),
        ("2", {"Count": 2, "DeviceIDs": []}, "--gpus=2"),
        ("device=0,GPU-1", {"Count": 0, "DeviceIDs": ["0", "GPU-1"]}, '--gpus="device=0,GPU-1"'),
    ],
)
def test_gpus_by_the_nvidia_runtime(asked: str, request_: dict[str, Any], words: str) -> None:
    plan = container(asked)
    (found,) = device_requests(plan)
    assert found == {"Driver": "", "Capabilities": [["gpu"]], "Options": {}, **request_}
    assert words in command_line(plan, "")


def test_no_gpus_unless_asked() -> None:
    assert device_requests(container()) == []
    assert not any("gpu" in word or "device" in word for word in command_line(container(), ""))


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("all", ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]),
        ("1", ["nvidia.com/gpu=0"]),
        ("device=1", ["nvidia.com/gpu=1"]),
        ("device=nvidia.com/gpu=0", ["nvidia.com/gpu=0"]),
    ],
)
def test_gpus_by_cdi(asked: str, names: list[str]) -> None:
    devices = [{"Source": "cdi", "ID": f"nvidia.com/gpu={name}"} for name in ("1", "0", "all")]
    found = daemon(DiscoveredDevices=devices)
    assert found.gpu_driver == "cdi"
    plan = container(asked, found)
    (asked_for,) = device_requests(plan)
    assert asked_for["Driver"] == "cdi" and asked_for["DeviceIDs"] == names
    assert [word.removeprefix("--device=") for word in command_line(plan, "") if word.startswith("--device=")] == names


@pytest.mark.parametrize(
    ("host", "target"), [("/a,b", "/data"), ("/a", "/data,source=/etc"), ("/a", '/data"'), ("/a", "/data\nsource=/etc")]
)
def test_podman_would_read_options_in_paths(host: str, target: str) -> None:
    volume = VolumeSpec("data", False, VolumeKind.DIRECTORY, "data", mount_path=target)
    request = TaskRequest(
        TaskSpec("infer", (volume,), CommandStyle.FIXED, entrypoint=("/run",)),
        (Mount("data", Path(host), VolumeKind.DIRECTORY, False),),
        Path("log"),
    )
    podman = read(INFO, {**VERSION, "Components": [{"Name": "Podman Engine"}]})
    with pytest.raises(ExecutionError, match="option"):
        describe({}, DIGEST, request, Account("5:6", 5, 6), podman, None, "0123")
    assert describe({}, DIGEST, request, Account("5:6", 5, 6), daemon(), None, "0123").binds[0].target == target


def test_podman_builds_nothing_without_a_network(tmp_path: Path) -> None:
    podman = read(INFO, {**VERSION, "Components": [{"Name": "Podman Engine"}]})
    context = BackendContext(tmp_path, tmp_path)
    source = ImageSource(SourceKind.TREE, str(tmp_path), dockerfile="Dockerfile")
    with pytest.raises(ExecutionError, match="off the network"):
        build.prepare(Connection("unix:///gone.sock", context), podman, context, DockerSettings(), source, ())


def test_gpu_capability() -> None:
    assert not capabilities(daemon(), UNIX.address, root_inside=False, filtered=True).gpus
    assert capabilities(daemon(Runtimes={"nvidia": {}}), UNIX.address, root_inside=False, filtered=True).gpus


def test_a_daemon_without_seccomp_promises_no_privileges(tmp_path: Path) -> None:
    context = BackendContext(tmp_path, tmp_path)
    without = daemon(SecurityOptions=[])
    assert find_filter(Connection("unix:///gone.sock", context), without, context) is None
    found = capabilities(without, UNIX.address, root_inside=False, filtered=False)
    assert set(Guarantee) - found.guarantees == {Guarantee.PRIVILEGES}
    assert any("seccomp" in note for note in found.notes)


def test_docker_gets_the_filter_whatever_its_own_is(tmp_path: Path) -> None:
    context = BackendContext(tmp_path / "cache", tmp_path)
    for arch, words in (("amd64", "SCMP_ARCH_X86_64"), ("arm64", "SCMP_ARCH_AARCH64"), ("mips", "")):
        found = attrs.evolve(daemon(SecurityOptions=["name=seccomp,profile=unconfined"]), architecture=arch)
        given = find_filter(Connection("unix:///gone.sock", context), found, context)
        assert given is not None
        assert given.value == given.file.read_text() == profile(arch)
        assert words in given.value and bool(words) == ("SCMP_ARCH" in given.value)


def test_limits_that_the_daemon_cannot_hold_are_neither_promised_nor_asked() -> None:
    found = daemon(MemoryLimit=False, PidsLimit=False, CpuCfsQuota=False)
    limits = capabilities(found, UNIX.address, root_inside=False, filtered=True).limits
    assert {limit for limit in Limit if limits[limit] is Enforcement.NONE} == {Limit.MEMORY, Limit.CPU, Limit.DISK}
    assert limits[Limit.PROCESSES] is Enforcement.POLLED
    plan = container(found=found, memory=1 << 20, processes=3, cpus=1)
    assert (plan.memory, plan.processes, plan.cpus) == (None, None, None)
    assert plan.ulimits == {"core": 0, "nproc": 3}
    assert container(found=found).ulimits == container(processes=3).ulimits == {"core": 0}


def test_limits_that_the_daemon_cannot_hold_are_watched_on_this_machine() -> None:
    found = attrs.evolve(daemon(MemoryLimit=False, PidsLimit=False, CpuCfsQuota=False, MemTotal=1 << 30), here=True)
    promised = capabilities(found, UNIX.address, root_inside=False, filtered=True)
    assert {promised.limits[limit] for limit in set(Limit) - {Limit.DISK}} == {Enforcement.POLLED}
    assert any("watched" in note for note in promised.notes)
    plan = container(found=found, memory=1 << 20, processes=3, cpus=1)
    assert (plan.memory, plan.processes, plan.cpus) == (None, None, None)
    assert plan.watched == Watched(1 << 20, 3, 1)
    assert plan.ulimits["nproc"] >= 2 * 3 + SPARE  # only so that the watchdog is not too slow
    assert container(found=found).watched == Watched(int((1 << 30) * 0.9))
    partly = attrs.evolve(daemon(CpuCfsQuota=False), here=True)
    assert container(found=partly, memory=1 << 20, processes=3, cpus=1).watched == Watched(cpus=1)
    assert not container(found=attrs.evolve(daemon(), here=True), memory=1 << 20, processes=3, cpus=1).watched


def test_rootless_podman_sets_no_resource_limits_so_it_is_watched_or_promises_none() -> None:
    version = {**VERSION, "Components": [{"Name": "Podman Engine"}]}
    found = read(INFO, version, {"security": {"rootless": True}, "cgroupControllers": []})
    limits = capabilities(found, UNIX.address, root_inside=False, filtered=True).limits
    assert limits[Limit.PROCESSES] is Enforcement.NONE
    assert container(found=found, processes=3).ulimits == {}
    here = attrs.evolve(found, here=True)
    assert (
        capabilities(here, UNIX.address, root_inside=False, filtered=True).limits[Limit.PROCESSES] is Enforcement.POLLED
    )
    assert container(found=here, processes=3).watched.processes == 3


def test_podman_tells_in_its_own_words_that_it_is_rootless_and_without_control_groups() -> None:
    version = {**VERSION, "Components": [{"Name": "Podman Engine"}]}
    own = {"security": {"rootless": True}, "cgroupControllers": ["cpu", "memory"]}
    found = read(INFO, version, own)
    assert found.ulimits is False
    assert found.podman and found.rootless
    assert found.limits == {Limit.TIME, Limit.CPU, Limit.MEMORY}
    assert not read(INFO, version).rootless
    assert read(INFO, version).limits == set(Limit) - {Limit.DISK}
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    rootful = container(found=read(INFO, version))
    assert most == resource.RLIM_INFINITY or rootful.ulimits["nofile"] <= most


def test_cpus_are_at_most_those_there_are() -> None:
    assert container(cpus=64).cpus == 4


def test_windows_containers_are_refused() -> None:
    with pytest.raises(ExecutionError, match="Linux"):
        daemon(OSType="windows")


def test_image_ids_are_named_by_what_they_are() -> None:
    image = {"Id": DIGEST, "RepoDigests": ["h:5000/x@sha256:" + "e" * 64]}
    other = ImageIdentity(IdentityKind.MANIFEST, "sha256:" + "e" * 64)
    assert images.identities(image, daemon()) == {ImageIdentity(IdentityKind.CONFIG, DIGEST), other}
    containerd = daemon(DriverStatus=[["driver-type", "io.containerd.snapshotter.v1"]])
    assert images.identities(image, containerd) == {ImageIdentity(IdentityKind.MANIFEST, DIGEST), other}


def test_comparing() -> None:
    def identity(kind: IdentityKind, digit: str) -> ImageIdentity:
        return ImageIdentity(kind, "sha256:" + digit * 64)

    config, manifest = IdentityKind.CONFIG, IdentityKind.MANIFEST
    known = [identity(config, "1"), identity(manifest, "2"), identity(manifest, "3")]
    assert agrees([identity(config, "1")], known)
    assert agrees([identity(config, "1"), identity(manifest, "3"), identity(manifest, "9")], known)
    assert agrees([identity(config, "1"), identity(IdentityKind.SIF, "9")], known)
    assert not agrees([identity(config, "1"), identity(manifest, "9")], known)
    assert not agrees([identity(config, "2")], known)
    assert not agrees([identity(IdentityKind.SIF, "1")], known)


def test_accounts() -> None:
    rootless = ["name=seccomp,profile=default", "name=rootless"]
    own = (os.geteuid(), os.getegid())
    assert account(daemon(SecurityOptions=rootless), UNIX, "7:8") == Account("0:0", *own)
    podman = read({**INFO, "SecurityOptions": rootless}, {**VERSION, "Components": [{"Name": "Podman Engine"}]})
    assert account(podman, UNIX, "7:8") == Account(f"{own[0]}:{own[1]}", *own, "keep-id")
    expected = Account("7:8", 7, 8) if own[0] == 0 else Account(f"{own[0]}:{own[1]}", *own)
    assert account(daemon(), UNIX, "7:8") == expected
    assert account(daemon(SecurityOptions=["name=userns"]), UNIX, "7:8").userns == "host"
    assert parse_account("5") == (5, 5)
    for text in ("nobody", "5:", "-1", "5:x", ""):
        with pytest.raises(ConfigurationError):
            parse_account(text)


def test_mounts_below_are_found_by_their_real_names(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        f"1 2 0:1 / {tmp_path}/a\\040b/below rw - tmpfs none rw\n"
        f"1 2 0:1 / {tmp_path}/a\\040bc rw - tmpfs none rw\n1 2 0:1 / / rw - ext4 none rw\n"
    )
    bind = Bind(tmp_path / "a b", "/data", False)
    assert list(nested(bind, table)) == [Bind(tmp_path / "a b" / "below", "/data/below", False)]


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("invalid mount config for type bind: bind source path does not exist: /x", "does not see that path"),
        ("error while creating mount source path '/nfs/x': mkdir /nfs/x: permission denied", "Network folders"),
        ("write /var/lib/docker/tmp/x: no space left on device", "docker system df"),
        ("Get https://h/v2/: x509: certificate signed by unknown authority", "certs.d"),
        ("Get https://h/v2/: http: server gave HTTP response to HTTPS client", "insecure-registries"),
        ("Get https://h/v2/: dial tcp: lookup h: no such host", "proxy"),
        ("denied: requested access to the resource is denied", "docker login"),
        ("exec /run: exec format error", "processor"),
    ],
)
def test_advice_for_the_engines_words(words: str, advice: str) -> None:
    error = engine_error("do it", words)
    assert words in error.message
    assert error.hint and advice in error.hint
