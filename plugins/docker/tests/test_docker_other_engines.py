"""The same promises on other kinds of daemons, used by the account that they belong to."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from docker import APIClient

from medperf_core.entities.image import ImageSource, SourceKind
from medperf_core.errors import CancelledError, ExecutionError
from medperf_core.plugin import Condition, Enforcement, Guarantee, Health, Limit, Resources, TaskLog
from tests.engines import require

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the daemon's user")
ENGINES = {
    "docker-rootless": "MEDPERF_TEST_DOCKER_ROOTLESS",
    "podman": "MEDPERF_TEST_PODMAN",
    "podman-rootless": "MEDPERF_TEST_PODMAN_ROOTLESS",
}
STATUS = "grep -E 'Cap|NoNew|Seccomp' /proc/self/status; sed -n 's/:.*//p' /proc/net/dev"

MEMORY = Resources(memory=64 << 20)
# The 14th word is what it used of a processor, in hundredths of a second.
BUSY = (
    "i=0; while read -r words </proc/self/stat; set -- $words; [ ${14} -lt 50 ]; do"
    " i=0; while [ $i -lt 999 ]; do i=$((i+1)); done; done; echo done"
)


@pytest.fixture(scope="module", params=list(ENGINES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def docker_host(kind: str) -> str:
    return require(kind)[ENGINES[kind]]


@pytest.fixture(scope="module")
def client(docker_host: str) -> Iterator[Any]:
    with APIClient(base_url=docker_host, version="auto", timeout=120) as found:
        yield found


@pytest.fixture(scope="module")
def shell_image(client: Any, new_root_file_system: Callable[[], bytes]) -> Iterator[str]:
    """One image for all of these tests, in the store of that daemon."""
    answer = client.import_image_from_data(new_root_file_system())
    name = f"localhost/medperf-test/{secrets.token_hex(6)}"
    client.tag(json.loads(answer.splitlines()[-1])["status"], name, "1")
    yield f"{name}:1"
    client.remove_image(f"{name}:1", force=True)


@attrs.define
class Tasks:
    """Runs tasks with one runner: what Podman tells of itself takes it half a second each time."""

    site: Any
    runner: Any
    prepared: Any

    @classmethod
    def of(cls, site: Any) -> Tasks:
        runner = site.runner()
        return cls(site, runner, runner.prepare(ImageSource(SourceKind.REGISTRY, site.image)))

    def run(self, script: str, *mounts: Any, **changes: Any) -> Any:
        return self.runner.run(self.prepared, self.site.request(script, *mounts, **changes))


@attrs.define
class Owner:
    """The account of the daemon: code that runs as it, in a folder of its own."""

    site: Any
    account: pwd.struct_passwd

    def does(self, work: Callable[[Any, Tasks], None]) -> None:
        """Do it in a child process with the rights of that account; what goes wrong there is a failure here."""
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgroups([])
                os.setgid(self.account.pw_gid)
                os.setuid(self.account.pw_uid)
                os.environ["HOME"] = str(self.site.folder)
                with APIClient(base_url=self.site.host, version="auto", timeout=120) as client:
                    self.site.client = client
                    work(self.site, Tasks.of(self.site))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "see what it wrote"


@pytest.fixture
def owner(site: Any) -> Iterator[Owner]:
    socket = Path(site.host.removeprefix("unix://")).stat()
    assert Tasks.of(site).run("true").exit_code == 0  # by root, on the account's daemon; and now everything is imported
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.chown(name, socket.st_uid, socket.st_gid)
        yield Owner(attrs.evolve(site, folder=Path(name)), pwd.getpwuid(socket.st_uid))
    assert site.containers() == []


def test_what_a_task_of_that_account_is_and_can_reach(owner: Owner, kind: str) -> None:
    def work(site: Any, tasks: Tasks) -> None:
        outcome = tasks.run(f"{STATUS}; touch /x 2>&1; grep ^Uid /proc/self/status")
        seen = list(outcome.tail)
        status = {line.split(":")[0]: line.split()[1] for line in seen[:8]}
        assert {status[f"Cap{name}"] for name in ("Eff", "Prm", "Inh", "Bnd", "Amb")} == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert [line.strip() for line in seen if line.strip().isalpha()] == ["lo"]
        assert sum("Read-only file system" in line for line in seen) == 1
        users = {line.split()[1] for line in seen if line.startswith("Uid:")}
        assert users == {expected}

    expected = {"docker-rootless": "0", "podman": "65534", "podman-rootless": str(owner.account.pw_uid)}[kind]
    owner.does(work)


def test_no_task_makes_a_user_namespace(owner: Owner) -> None:
    def work(site: Any, tasks: Tasks) -> None:
        assert Guarantee.PRIVILEGES in tasks.runner.capabilities().guarantees
        outcome = tasks.run("unshare -U true 2>&1 || echo refused")
        assert outcome.tail[-1] == "refused"
        assert "Operation not permitted" in outcome.tail[0]

    owner.does(work)


def test_privileges_are_promised_only_where_the_engine_takes_the_filter(site: Any, kind: str) -> None:
    """Podman reads it from a file: here, the folder for that cannot be made."""
    site.path("cache", "a file")
    runner = site.runner()
    found = runner.capabilities()
    taken = kind == "docker-rootless"  # Docker gets its text
    assert set(Guarantee) - found.guarantees == (set() if taken else {Guarantee.PRIVILEGES})
    assert any("user namespace" in note for note in found.notes) != taken
    check = next(check for check in runner.doctor() if check.name == "docker isolation")
    assert check.health is (Health.OK if taken else Health.WARNING)
    assert ("more-privileges" in check.advice) != taken
    waived = Tasks.of(site).run("grep Seccomp: /proc/self/status", waivers=("more-privileges",))
    assert waived.tail[0].split()[1] == "2"  # the engine's own


def test_a_filter_that_the_engine_cannot_read_is_not_promised(site: Any, kind: str) -> None:
    """The accounts of rootless engines cannot get into root's folders."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        found = attrs.evolve(site, folder=Path(name)).runner().capabilities()
    assert (Guarantee.PRIVILEGES in found.guarantees) == (kind != "podman-rootless")
    assert site.client.containers(all=True, filters={"name": "medperf-probe-"}) == []


def test_its_inputs_cannot_be_written_and_its_outputs_are_its_own(owner: Owner) -> None:
    def work(site: Any, tasks: Tasks) -> None:
        data, output = site.path("in"), site.path("out")
        (data / "case").write_text("kept")
        data.chmod(0o755 if os.geteuid() == 0 else 0o700)  # root's tasks run as somebody else
        outcome = tasks.run(
            "touch /data/new 2>&1; echo x 2>&1 >/data/case; rm -f /data/case 2>&1; mkdir -p /out/a/b;"
            " cat /data/case >/out/a/b/copy; chmod 000 /out/a/b/copy; chmod 500 /out/a/b; chown 5 /out/a 2>&1",
            site.folder_mount("data", data),
            site.folder_mount("out", output, writable=True),
        )
        assert sum("Read-only file system" in line for line in outcome.tail) == 3, outcome.tail
        assert "Operation not permitted" in outcome.tail[-1]
        assert (data / "case").read_text() == "kept"
        found = [output, *output.rglob("*")]
        assert {(path.lstat().st_uid, path.lstat().st_gid) for path in found} == {(os.geteuid(), os.getegid())}
        (output / "a" / "b").chmod(0o700)
        shutil.rmtree(output)

    owner.does(work)


def test_its_limits(owner: Owner, kind: str) -> None:
    def work(site: Any, tasks: Tasks) -> None:
        found = tasks.runner.capabilities()
        assert set(Guarantee) == found.guarantees
        by = Enforcement.ENGINE if kind == "podman" else Enforcement.POLLED
        assert {found.limits[limit] for limit in (Limit.MEMORY, Limit.PROCESSES, Limit.CPU)} == {by}
        assert (Condition.USER in found.conditions) == (os.geteuid() == 0)
        outcome = tasks.run("trap '' TERM; sleep 60", time_limit=1)
        assert outcome.timed_out and outcome.seconds < 8
        script = "for i in $(seq 100); do sleep 20 & done 2>/tmp/err; jobs | wc -l; sleep 20; echo end"
        outcome = tasks.run(script, resources=Resources(processes=50), time_limit=60)
        assert outcome.exit_code != 0 and "end" not in outcome.tail and not outcome.timed_out
        assert outcome.limits["processes"] == f"{by} 50"
        assert outcome.too_many_processes == (kind != "podman")
        outcome = tasks.run("echo kept; x=$(head -c 99000000 /dev/zero | tr '\\0' x); sleep 60", resources=MEMORY)
        assert outcome.out_of_memory and not outcome.too_many_processes
        assert (outcome.exit_code, outcome.tail) == (137, ("kept",))
        assert outcome.limits["memory"] == f"{by} 0.0625 GiB"
        outcome = tasks.run(BUSY, resources=Resources(cpus=0.25), time_limit=120)
        assert (outcome.exit_code, outcome.tail[-1], outcome.limits["cpu"]) == (0, "done", f"{by} 0.25")
        assert outcome.seconds > 1  # of half a second of work, two

    owner.does(work)


def test_a_task_whose_processes_cannot_be_found_is_ended_not_left_unwatched(
    owner: Owner, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(site: Any, tasks: Tasks) -> None:
        if kind == "podman":  # it holds all limits itself
            assert tasks.run("echo done").tail == ("done",)
        else:
            with pytest.raises(ExecutionError, match="were not found on this machine"):
                tasks.run("sleep 60")
        assert site.containers() == []

    monkeypatch.setattr("medperf_docker.watch.first_process", lambda container, told: None)
    monkeypatch.setattr("medperf_docker.watch.FIND_SECONDS", 0.5)
    owner.does(work)


def test_a_process_that_got_the_number_of_an_ended_one_is_left_alone(
    owner: Owner, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(site: Any, tasks: Tasks) -> None:
        with subprocess.Popen(["sleep", "60"]) as stranger:
            monkeypatch.setattr("medperf_docker.watch.first_process", lambda container, told: stranger.pid)
            times = iter((1, 2))
            monkeypatch.setattr("medperf_docker.watch.start_time", lambda pid: next(times))
            outcome = tasks.run("sleep 60", time_limit=1)
            assert outcome.timed_out
            assert stranger.poll() is None
            stranger.kill()

    owner.does(work)


def test_cancelling_leaves_nothing(owner: Owner) -> None:
    def work(site: Any, tasks: Tasks) -> None:
        def when_begun() -> None:
            while not any(isinstance(event, TaskLog) for event in site.events):
                time.sleep(0.05)
            site.cancel.cancel()

        threading.Thread(target=when_begun, daemon=True).start()
        with pytest.raises(CancelledError):
            tasks.run("echo begun; sleep 60")
        assert site.containers() == []

    owner.does(work)
