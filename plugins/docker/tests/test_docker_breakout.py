"""A task that means harm: each test is one thing that it tries, in a real container."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from medperf_docker.watch import GRACE_SECONDS

from medperf_core.errors import ExecutionError
from medperf_core.journeys.tasks import check_outputs
from medperf_core.plugin import Resources


def fields(lines: Any) -> dict[str, str]:
    """What /proc/self/status says, by name."""
    return {name: value.strip() for name, _, value in (line.partition(":\t") for line in lines)}


@pytest.fixture(scope="module")
def image_with_helpers(client: Any, new_root_file_system: Callable[[], bytes]) -> Iterator[str]:
    """An image whose author left a set-user-ID program of root, and a root without a password."""
    data = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(new_root_file_system())) as old, tarfile.open(fileobj=data, mode="w") as new:
        for entry in old:
            content = old.extractfile(entry) if entry.isfile() else None
            if entry.name == "bin/busybox":
                entry.mode, entry.uid, entry.gid = 0o6755, 0, 0
            new.addfile(entry, content)
        passwd = b"root::0:0:root:/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"
        for name, content in (("etc/passwd", passwd), ("etc/group", b"root:x:0:\n")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            new.addfile(entry, io.BytesIO(content))
    answer = client.import_image_from_data(data.getvalue())
    name = f"localhost/medperf-test/{secrets.token_hex(6)}"
    client.tag(json.loads(answer.splitlines()[-1])["status"], name, "1")
    yield f"{name}:1"
    client.remove_image(f"{name}:1", force=True)


def test_a_set_user_id_helper_gives_nothing(site: Any, image_with_helpers: str) -> None:
    become = "su -c 'echo now $(id -u)' root 2>&1"
    words = ["docker", "--host", site.host, "run", "--rm", "--network=none", "--user=65534:65534"]
    done = subprocess.run([*words, image_with_helpers, "/bin/sh", "-c", become], capture_output=True, text=True)
    assert done.stdout == "now 0\n", "the helper does not work, so this test would prove nothing"
    site.image = image_with_helpers
    outcome = site.run(f"{become}; grep -E '^(CapEff|Uid|NoNew)' /proc/self/status")
    assert not any(line.startswith("now") for line in outcome.tail)
    assert fields(outcome.tail)["CapEff"] == "0" * 16
    assert "0" not in fields(outcome.tail)["Uid"].split()


def test_other_files_of_this_machine_are_out_of_reach(site: Any) -> None:
    mark = secrets.token_hex(8)
    data, output, secret = site.path("in"), site.path("out"), site.path(f"{mark}.secret", mark)
    (data / "link").symlink_to(f"../{secret.name}")
    (data / "absolute").symlink_to(secret)
    outcome = site.run(
        f"cat /data/link /data/absolute /data/../{secret.name} {secret} /proc/1/root{secret} 2>/dev/null;"
        f" ln -s {secret} /out/through; cat /out/through 2>/dev/null; find / -xdev -name '*.secret' 2>/dev/null;"
        " ls /dev; cut -d' ' -f5 /proc/self/mountinfo; ls /run/docker.sock /var/run/docker.sock 2>/dev/null; echo end",
        site.folder_mount("data", data),
        site.folder_mount("out", output, writable=True),
    )
    said = (site.folder / "logs" / "task.log").read_text()
    assert outcome.tail[-1] == "end"
    assert mark not in said
    assert not {"sda", "vda", "mem", "kmsg", "fuse", "docker.sock"} & set(said.split())


def test_a_fork_bomb_stays_within_its_number(site: Any) -> None:
    script = "bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 1; while true; do :; done"
    outcome = site.run(script, resources=Resources(processes=40, cpus=0.5), time_limit=3)
    assert outcome.timed_out
    assert outcome.seconds < 3 + GRACE_SECONDS
    assert site.run("echo well").tail == ("well",)


def test_memory_in_files_counts_too(site: Any) -> None:
    """What is written to /tmp and /dev/shm is memory of the task, not of the machine."""
    files = "for f in /tmp/a /dev/shm/a; do dd if=/dev/zero of=$f bs=1M count=200 2>/dev/null; done"
    script = f"{files}; du -sm /tmp /dev/shm"
    outcome = site.run(script, resources=Resources(memory=64 << 20, tmp_size=1 << 30, shm_size=1 << 30), time_limit=60)
    assert outcome.out_of_memory or all(int(line.split()[0]) < 64 for line in outcome.tail)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("ln -s /etc/passwd /out/x", "outside"),
        ("ln -s ../../in /out/x", "outside"),
        ("mkfifo /out/x", "neither a file nor a folder"),
        ("cp /bin/busybox /out/x; chmod 4755 /out/x", "setuid"),
    ],
)
def test_what_is_no_file_is_refused_as_output(site: Any, script: str, words: str) -> None:
    output = site.path("out")
    request = site.request(script, site.folder_mount("out", output, writable=True))
    outcome = site.runner().run(site.prepared, request)
    assert outcome.exit_code == 0, outcome.tail
    if words == "setuid":
        (output / "x").chmod(0o4755)  # a root caller's hand-over took it away already
    with pytest.raises(ExecutionError, match=words):
        check_outputs(request.task, request.mounts)


def test_set_user_id_programs_are_not_left_as_output(site: Any) -> None:
    output = site.path("out")
    script = "cp /bin/busybox /out/tool; chmod 6755 /out/tool; chmod 2777 /out"
    assert site.run(script, site.folder_mount("out", output, writable=True)).exit_code == 0
    status = (output / "tool").stat()
    assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
    if os.geteuid() == 0:
        assert not status.st_mode & 0o6000


def test_an_output_that_became_a_link_hits_nothing(site: Any) -> None:
    """The mount itself cannot be replaced; what lies beside it on this machine stays as it is."""
    output, beside = site.path("places/out"), site.path("places/beside", "kept")
    outcome = site.run(
        "exec 2>&1; rmdir /out; mv /out /tmp/x; ln -s ../beside /out/b; echo x >/out/b; cat /out/../beside; echo end",
        site.folder_mount("out", output, writable=True),
    )
    assert outcome.tail[-1] == "end"
    assert beside.read_text() == "kept"
    assert not Path(output).is_symlink()
    assert sorted(path.name for path in output.parent.iterdir()) == ["beside", "out"]
