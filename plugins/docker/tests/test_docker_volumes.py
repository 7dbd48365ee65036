"""Inputs and outputs: who may write what, strange paths, both ways of passing files, and whose the outputs are."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.entities import CommandStyle, TaskSpec, VolumeKind, VolumeSpec
from medperf_core.plugin import Notice


def test_only_outputs_can_be_written(site: Any) -> None:
    data, labels = site.path("in/data"), site.path("in/labels.csv", "kept")
    (data / "case.txt").write_text("kept")
    output = site.path("out")
    outcome = site.run(
        "echo x >/data/new; echo x >/data/case.txt; rm -f /data/case.txt; echo x >/labels;"
        " cat /data/case.txt >/output/copy",
        site.folder_mount("data", data),
        site.file_mount("labels", labels),
        site.folder_mount("output", output, writable=True),
    )
    assert outcome.exit_code == 0
    assert sum("Read-only file system" in line for line in outcome.tail) == 4
    assert [path.name for path in data.iterdir()] == ["case.txt"]
    assert (data / "case.txt").read_text() == labels.read_text() == "kept"
    assert (output / "copy").read_text() == "kept"


def test_outputs_belong_to_the_caller_again(site: Any) -> None:
    output = site.path("out")
    outcome = site.run(
        "mkdir -p /output/a/b; echo x >/output/a/b/c; ln -s /etc/passwd /output/link; chmod 000 /output/a/b;"
        " cp /bin/busybox /output/tool; chmod 6755 /output/tool; id -u",
        site.folder_mount("output", output, writable=True),
    )
    assert outcome.exit_code == 0
    assert outcome.tail[-1] != "0"
    found = [output, *output.rglob("*")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in found} == {(os.geteuid(), os.getegid())}
    if os.geteuid() == 0:
        assert not (output / "tool").stat().st_mode & 0o6000, "a set-user-ID program of root was left"
    assert (output / "link").is_symlink()
    (output / "a" / "b").chmod(0o700)
    shutil.rmtree(output)


@pytest.mark.parametrize("name", ["a,b", "a:b", "a b", "größe-日本", 'a"b', "a,readonly=false,source=x", "a\\b'c$d"])
def test_strange_paths(site: Any, name: str) -> None:
    data, output = site.path(f"{name}/in"), site.path(f"{name}/out")
    (data / name.replace("/", "")).write_text("here")
    outcome = site.run(
        "cat /data/* >/output/seen; touch /data/x",
        site.folder_mount("data", data),
        site.folder_mount("output", output, writable=True),
    )
    assert (output / "seen").read_text() == "here"
    assert "Read-only" in outcome.tail[-1]


def test_s3_a_mount_path_is_never_more_than_a_path(site: Any) -> None:
    data = site.path("in")
    place = "/data:rw,/etc:/hostetc"
    outcome = site.run("ls -d /data*; ls /hostetc", site.folder_mount("data", data), places={"data": place})
    assert any(line.startswith("/data:rw,") for line in outcome.tail)
    assert not any("passwd" in line for line in outcome.tail)


def test_file_outputs_of_both_styles(site: Any) -> None:
    fixed = site.path("fixed/results.yaml", "")
    outcome = site.run("echo fixed >/output", site.file_mount("output", fixed, writable=True))
    assert outcome.exit_code == 0, outcome.tail
    assert fixed.read_text() == "fixed\n"

    styled = site.path("styled/results.yaml", "")
    task = TaskSpec(
        "evaluate",
        (VolumeSpec("output_path", True, VolumeKind.FILE, "output_path"),),
        CommandStyle.MLCUBE,
        entrypoint=("/bin/sh", "-c", 'p=${1#--output_path=}; echo styled >$p.new && mv $p.new $p; echo "$@"', "sh"),
    )
    request = site.request("", site.file_mount("output_path", styled, writable=True), task=task)
    outcome = site.runner().run(site.prepared, request)
    assert outcome.exit_code == 0, outcome.tail
    assert styled.read_text() == "styled\n"
    assert outcome.tail[-1] == "--output_path=/mlcube_io0/results.yaml"
    assert styled.stat().st_uid == fixed.stat().st_uid == os.geteuid()


def test_entrypoint_and_command_of_the_image(site: Any, make_image: Any) -> None:
    site.image = make_image('ENTRYPOINT ["/bin/echo"]', 'CMD ["from", "cmd"]')
    plain = TaskSpec("infer", (), CommandStyle.FIXED)
    assert site.runner().run(site.prepared, site.request("", task=plain)).tail == ("from cmd",)
    styled = TaskSpec("infer", (), CommandStyle.MLCUBE)
    assert site.runner().run(site.prepared, site.request("", task=styled)).tail == ("infer",)
    assert site.prepared.command == ("/bin/echo", "from", "cmd")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_mount_below_an_input_is_read_only_too(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = site.path("in put")
    below = site.path("in put/below")
    subprocess.run(["mount", "-t", "tmpfs", "none", below], check=True)
    try:
        (below / "case").write_text("seen")
        script = "exec 2>&1; cat /data/below/case; echo; touch /data/below/x"
        outcome = site.run(script, site.folder_mount("data", data))
        assert outcome.tail[0] == "seen"
        assert "Read-only" in outcome.tail[1]
        assert not (below / "x").exists()
        assert sum("bind-recursive=disabled" in word for word in outcome.command) == 1
        monkeypatch.setattr("medperf_docker.container.nested", lambda bind: ())  # one that appears a moment later
        assert site.run("ls /data/below", site.folder_mount("data", data)).tail == ()
    finally:
        subprocess.run(["umount", below], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="for root only: others run as themselves")
def test_an_input_that_the_account_cannot_read_is_told(site: Any) -> None:
    data = site.path("in")
    data.chmod(0o700)
    outcome = site.run("ls /data", site.folder_mount("data", data))
    assert outcome.exit_code != 0
    assert any(isinstance(event, Notice) and str(data) in event.message for event in site.events)


def test_a_missing_input_is_an_error_that_names_it(site: Any) -> None:
    from medperf_core.errors import ExecutionError

    with pytest.raises(ExecutionError, match="gone"):
        site.run("true", site.folder_mount("data", site.folder / "gone"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_runs_as_themselves(site: Any) -> None:
    """A child process with the socket's group and no other right runs a task; its files are its own."""
    socket = Path(site.host.removeprefix("unix://")).stat()
    if not socket.st_mode & stat.S_IWGRP:
        pytest.skip("the daemon's socket is for root only")
    site.run("true")  # everything is imported before the rights to read it are given up
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("in", "out"):
            (folder / part).mkdir()
        (folder / "in/secret").write_text("group only")
        (folder / "in").chmod(0o750)
        (folder / "in/secret").chmod(0o640)
        for path in (folder, folder / "out"):
            os.chown(path, 12345, 12346)
        for path in (folder / "in", folder / "in/secret"):
            os.chown(path, 12350, 12347)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgroups([socket.st_gid, 12347, 12348])
                os.setgid(12346)
                os.setuid(12345)
                own = attrs.evolve(site, folder=folder)
                outcome = own.run(
                    "id -u; id -g; id -G; cat /data/secret >/out/seen",
                    own.folder_mount("data", folder / "in"),
                    own.folder_mount("out", folder / "out", writable=True),
                )
                (folder / "out/tail").write_text("\n".join(outcome.tail))
                code = outcome.exit_code
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0, (folder / "out/tail").read_text()
        assert (folder / "out/tail").read_text() == "12345\n12346\n12346 12347"
        assert (folder / "out/seen").read_text() == "group only"
        assert (folder / "out/seen").stat().st_uid == 12345
