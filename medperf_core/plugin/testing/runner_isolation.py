"""Tests of the guarantees: from inside a task, each one that the runner declares is tried to be broken."""

from __future__ import annotations

import os
import stat
import subprocess
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from medperf_core.errors import CancelledError
from medperf_core.plugin import Guarantee
from medperf_core.plugin.testing.probe_image import FOLDER, OPEN
from medperf_core.plugin.testing.runner_kit import RunnerKit, Volume, entries, listening

ANEW = tuple(Path("/etc", name) for name in ("group", "hostname", "hosts", "passwd", "resolv.conf"))
"""Files of an image that engines replace, for one task, by their own."""
SHARED = ("/tmp", "/var/tmp")
"""Folders of this machine that some engines show to every task."""
WAYS = ("{}", "/proc/1/root{}", "/proc/self/root{}", "/host{}", "/mnt{}", "/../..{}")


class IsolationTests:
    """See the module."""

    def test_network_only_loopback_is_there(self, kit: RunnerKit) -> None:
        """The task has no other network interface."""
        kit.needs(Guarantee.NETWORK)
        assert kit.usual("facts").report["interfaces"] == ["lo"]

    def test_network_the_host_cannot_be_reached(self, kit: RunnerKit) -> None:
        """Neither by its loopback nor by its abstract Unix sockets."""
        kit.needs(Guarantee.NETWORK)
        with listening(kit.token) as (port, came):
            assert kit.report("connect", str(port), kit.token)["reached"] == []
        assert came == []

    def test_mounts_the_root_file_system_cannot_be_written(self, kit: RunnerKit) -> None:
        """Not even where the image's permissions allow it.

        What an engine makes anew for each task, such as its /etc/hostname, may be the task's; it ends with it.
        """
        kit.needs(Guarantee.MOUNTS)
        places = ("/", "/etc", "/usr", "/opt", f"/{FOLDER}", f"/{OPEN}", "/home", "/root", "/mnt")
        allowed = [f"{act} {file}" for act in ("append", "chmod") for file in ANEW]
        before = _state(*ANEW)
        done = kit.report("change", *places)["done"]
        assert [what for what in done if what not in allowed] == []
        assert _state(*ANEW) == before, "files of this machine were changed"
        if done:
            found = kit.report("read", *map(str, ANEW))["read"]
            assert [name for name, text in found.items() if text and text.splitlines()[-1] == "x"] == []

    def test_mounts_files_of_the_host_cannot_be_read(self, kit: RunnerKit) -> None:
        """Neither by their paths, nor by a link in an input, nor through another process."""
        kit.needs(Guarantee.MOUNTS)
        inside = kit.file("in/file")
        words = ["/data/in/link"]
        with ExitStack() as folders:
            for place in SHARED:
                name = folders.enter_context(TemporaryDirectory(prefix="medperf-probe-", dir=place))
                Path(name).chmod(0o755)  # so that nothing but the mounts can keep the task out
                secret = Path(name, "secret")
                secret.write_text(kit.token)
                words += [way.format(secret) for way in WAYS]
            (inside.parent / "link").symlink_to(secret)
            found = kit.report("read", *words, volumes=[Volume("in", inside.parent, place="/data/in")])["read"]
        assert [path for path, text in found.items() if text is not None] == []

    def test_mounts_programs_of_the_host_cannot_be_seen(self, kit: RunnerKit) -> None:
        """Through them, their files could be; nor can their variables be read, nor they be ended."""
        kit.needs(Guarantee.MOUNTS)
        mark = kit.token[::-1]
        environment = {**os.environ, "OF_THE_HOST": mark}
        with subprocess.Popen(["/bin/cat", "-", mark], stdin=subprocess.PIPE, env=environment) as program:
            found = kit.report("facts")
            kit.report("end", str(program.pid))
            assert program.poll() is None, "the task ended a program of this machine"
            program.kill()
        assert [line for line in found["commands"] + found["environments"] if mark in line] == []

    def test_read_only_inputs_cannot_be_changed(self, kit: RunnerKit) -> None:
        """Neither files nor folders, whatever their permissions on this machine say."""
        kit.needs(Guarantee.READ_ONLY_INPUTS)
        folder, file = kit.file("in/deep/file").parent.parent, kit.file("parameters.yaml")
        kit.file("in/other")
        volumes = [Volume("in", folder, place="/data/in"), Volume("file", file, place="/data/file")]
        before = _state(folder, file)
        assert kit.report("change", "/data/in", "/data/in/deep", "/data/file", volumes=volumes)["done"] == []
        assert _state(folder, file) == before

    def test_privileges_there_are_none(self, kit: RunnerKit) -> None:
        """No capability, no way to a new one, and a filter of system calls, as the kernel says it."""
        kit.needs(Guarantee.PRIVILEGES)
        status = kit.usual("facts").report["status"]
        sets = {name: int(value, 16) for name, value in status.items() if name.startswith("Cap")}
        assert sets == dict.fromkeys(sets, 0)
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"

    def test_privileges_cannot_be_gained(self, kit: RunnerKit) -> None:
        """By system calls, or by a set-user-ID program in the image."""
        kit.needs(Guarantee.PRIVILEGES)
        assert kit.report("privileges")["done"] == []

    def test_privileges_never_root_on_the_host(self, kit: RunnerKit) -> None:
        """What a task writes belongs to somebody else than root, as this machine sees it meanwhile."""
        kit.needs(Guarantee.PRIVILEGES)
        request, prepared = kit.request("linger"), kit.prepared
        owners: list[int] = []

        def look() -> None:
            owners.append((request.mount("out").path / "mine").stat().st_uid)
            kit.cancel.cancel()

        kit.heard.when_ready = look
        with suppress(CancelledError):
            kit.runner().run(prepared, request)
        assert owners, "the task was not heard to start"
        assert 0 not in owners

    def test_privileges_no_output_runs_as_root(self, kit: RunnerKit) -> None:
        """A set-user-ID program that a task left has lost that when its outputs belong to root."""
        kit.needs(Guarantee.PRIVILEGES)
        ran = kit.run("mess", "/nowhere/secret")
        programs = [name for name, found in entries(ran.out) if stat.S_ISREG(found.st_mode) and _as_root(found)]
        assert ran.outcome.exit_code == 0
        assert programs == []


def _as_root(found: os.stat_result) -> bool:
    by_user = found.st_uid == 0 and found.st_mode & stat.S_ISUID
    return bool(by_user or (found.st_gid == 0 and found.st_mode & stat.S_ISGID))


def _state(*places: Path) -> list[tuple[str, int, bytes]]:
    files = [file for place in places for file in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    files = [file for file in files if file.exists()]
    return [(str(file), file.stat().st_mode, file.read_bytes() if file.is_file() else b"") for file in files]
