"""A task that means harm: each test is one thing that it tries, in a real container, as root and as a user."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from typing import Any

import pytest
from medperf_singularity.execute import Output

from medperf_core.errors import ExecutionError
from medperf_core.journeys.tasks import check_outputs
from medperf_core.plugin import Resources


def test_a_set_user_id_helper_gives_nothing(tasks: Any) -> None:
    def work() -> None:
        outcome = tasks.run(
            "test -u /bin/helper && echo set; /bin/helper su -c 'echo now $(id -u)' root 2>&1;"
            " /bin/helper id -u; grep -E '^CapEff' /proc/self/status"
        )
        assert outcome.tail[0] == "set", "the helper is none, so this test would prove nothing"
        assert not any(line.startswith("now") or line == "0" for line in outcome.tail)
        assert outcome.tail[-1].split()[1] == "0" * 16

    tasks.do(work)


def test_other_files_of_this_machine_are_out_of_reach(tasks: Any) -> None:
    def work() -> None:
        mark = secrets.token_hex(8)
        data, output, secret = tasks.path("in"), tasks.path("out"), tasks.path(f"{mark}.secret", mark)
        (data / "link").symlink_to(f"../{secret.name}")
        (data / "absolute").symlink_to(secret)
        outcome = tasks.run(
            f"cat /data/link /data/absolute /data/../{secret.name} {secret} /proc/1/root{secret} 2>/dev/null;"
            f" ln -s {secret} /out/through; cat /out/through 2>/dev/null; find / -xdev -name '*.secret' 2>/dev/null;"
            " ls /home /root /sys/fs/cgroup /sys/kernel /run 2>/dev/null; echo end",
            tasks.mount("data", data),
            tasks.mount("out", output, writable=True),
        )
        assert outcome.tail[-1] == "end"
        assert mark not in tasks.log
        assert "apptainer" not in tasks.log

    tasks.do(work)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("ln -s /etc/passwd /out/x", "outside"),
        ("ln -s ../../in /out/x", "outside"),
        ("mkfifo /out/x", "neither a file nor a folder"),
        ("cp /bin/busybox /out/x; chmod 4755 /out/x", "setuid"),
    ],
)
def test_what_is_no_file_is_refused_as_output(tasks: Any, script: str, words: str) -> None:
    def work() -> None:
        output = tasks.path("out")
        request = tasks.request(script, tasks.mount("out", output, writable=True))
        outcome = tasks.run_request(request)
        assert outcome.exit_code == 0, outcome.tail
        if words == "setuid":
            (output / "x").chmod(0o4755)  # a root caller's hand-over took it away already
        with pytest.raises(ExecutionError, match=words):
            check_outputs(request.task, request.mounts)

    tasks.do(work)


def test_inputs_stay_and_outputs_belong_to_the_caller_who_can_remove_them(tasks: Any) -> None:
    def work() -> None:
        data, output = tasks.path("in"), tasks.path("out")
        (data / "case").write_text("kept")
        outcome = tasks.run(
            "touch /data/new 2>&1; echo x 2>&1 >/data/case; rm -f /data/case 2>&1; mv /data /x 2>&1;"
            " mkdir -p /out/a/b; cat /data/case >/out/a/b/copy; cp /bin/busybox /out/tool; chmod 6755 /out/tool;"
            " chmod 000 /out/a/b/copy; chmod 500 /out/a/b; chown 5 /out/a 2>&1; chmod 2777 /out; true",
            tasks.mount("data", data),
            tasks.mount("out", output, writable=True),
        )
        assert outcome.exit_code == 0, outcome.tail
        assert sum("Read-only file system" in line for line in outcome.tail) >= 3, outcome.tail
        assert (data / "case").read_text() == "kept" and len(list(data.iterdir())) == 1
        found = [output, *output.rglob("*")]
        assert {(path.lstat().st_uid, path.lstat().st_gid) for path in found} == {(os.geteuid(), os.getegid())}
        if os.geteuid() == 0:
            assert not (output / "tool").stat().st_mode & 0o6000
        (output / "a" / "b").chmod(0o700)
        shutil.rmtree(output)

    tasks.do(work)


def test_a_mount_below_an_input_cannot_be_written_either(tasks: Any) -> None:
    if tasks.account is not None:
        return  # mounting takes root; the arguments are the same
    data = tasks.path("in")
    (data / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "below", data / "below"], check=True)
    try:
        outcome = tasks.run("touch /data/x /data/below/x 2>&1; true", tasks.mount("data", data))
        assert sum("Read-only file system" in line for line in outcome.tail) == 2, outcome.tail
    finally:
        subprocess.run(["umount", data / "below"], check=True)


def test_an_output_that_became_a_link_hits_nothing(tasks: Any) -> None:
    def work() -> None:
        output, beside = tasks.path("places/out"), tasks.path("places/beside", "kept")
        outcome = tasks.run(
            "exec 2>&1; rmdir /out; mv /out /tmp/x; ln -s ../beside /out/b; echo x >/out/b; cat /out/../beside;"
            " echo end",
            tasks.mount("out", output, writable=True),
        )
        assert outcome.tail[-1] == "end"
        assert beside.read_text() == "kept"
        assert sorted(path.name for path in output.parent.iterdir()) == ["beside", "out"]

    tasks.do(work)


def test_a_task_cannot_pretend_that_it_did_not_begin(tasks: Any) -> None:
    def work() -> None:
        outcome = tasks.run("echo 'FATAL:   container creation failed: x'; exit 255")
        assert outcome.exit_code == 255
        assert outcome.tail == ("FATAL:   container creation failed: x",)

    tasks.do(work)


@pytest.mark.parametrize("pieces", [1, 7, 1000])
def test_what_the_engine_says_first_is_not_the_tasks_output(tmp_path: Any, pieces: int) -> None:
    said = b"WARNING: x\nmedperf: the task begins\none\nmedperf: the task begins\n"
    with Output(tmp_path / "log", "t", lambda event: None) as log:
        for start in range(0, len(said), pieces):
            log.feed(said[start : start + pieces])
    assert log.begun and log.before == b"WARNING: x\n"
    assert log.tail == ("one", "medperf: the task begins")


def test_memory_in_files_counts_for_root_and_is_bounded_for_all(tasks: Any) -> None:
    def work() -> None:
        files = "for f in /tmp/a /dev/shm/a /dev/a; do dd if=/dev/zero of=$f bs=1M count=200 2>/dev/null; done"
        outcome = tasks.run(
            f"{files}; du -sm /tmp /dev/shm; true",
            resources=Resources(memory=96 << 20, tmp_size=40 << 20, shm_size=30 << 20),
            time_limit=60,
        )
        assert outcome.out_of_memory or sum(int(line.split()[0]) for line in outcome.tail) < 110

    tasks.do(work)
