"""The kit catches what it is for: each runner that breaks one promise fails exactly the tests of that promise."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker import APIClient
from docker.errors import APIError
from medperf_docker.plugin import DockerSettings
from medperf_docker.plugin import make as make_docker

from medperf_core.entities.image import IdentityKind
from medperf_core.plugin import BackendContext, Runner, TaskOutcome, TaskRequest
from medperf_core.plugin.testing import RunnerContract
from medperf_core.plugin.testing.probe_image import Probe
from tests.engines import require
from tests.plugin.testing.kit_suite import CONTROL, Given, check
from tests.plugin.testing.runner_mutants import DOCKER_MUTANTS, MUTANTS, Change, Wrapper

SECOND_CONTROL = "test_what_is_run_is_not_named_by_a_tag"
UNPROMISED = {"test_disk_is_limited"}
"""Tests of what no runner promises yet."""
HERE = {"test_the_descriptor_is_usable", "test_privileges_no_output_runs_as_root"}
"""Tests whose mutants stand in this file."""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    return Probe(tmp_path_factory.mktemp("probe"))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_runner_that_breaks_a_promise_is_caught(mutant: Any, probe: Probe, tmp_path: Path) -> None:
    control = SECOND_CONTROL if CONTROL in mutant.CAUGHT else CONTROL
    check(Given(mutant, lambda probe: probe.tree, probe), tmp_path, mutant.CAUGHT, [control])


@pytest.mark.parametrize("change", [{"api": 99}, {"name": "Two Words"}, {"summary": ""}], ids=str)
def test_an_unusable_descriptor_is_caught(change: dict[str, Any], probe: Probe, tmp_path: Path) -> None:
    given = Given(Wrapper, lambda probe: probe.tree, probe, changes=change)
    check(given, tmp_path, ["test_the_descriptor_is_usable"])


@pytest.fixture(scope="module")
def docker_host() -> str:
    return require("docker")["DOCKER_HOST"]


@pytest.fixture(scope="module")
def client(docker_host: str, probe: Probe) -> Iterator[Any]:
    with APIClient(base_url=docker_host, version="auto", timeout=120) as found:
        yield found
        try:
            found.remove_image(probe.known(probe.archive)[IdentityKind.CONFIG].digest, force=True)
        except APIError:
            pass


@pytest.fixture
def docker(docker_host: str, client: Any, probe: Probe) -> Given:
    def make(context: BackendContext) -> Runner:
        return make_docker(DockerSettings(host=docker_host), context)

    return Given(make, lambda probe: probe.archive, probe)


def changed(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Have every container made with other arguments than the runner gave."""
    create = APIClient.create_container

    def wrapper(self: Any, **arguments: Any) -> Any:
        change(arguments, arguments["host_config"])
        return create(self, **arguments)

    monkeypatch.setattr(APIClient, "create_container", wrapper)


@pytest.mark.parametrize("name", DOCKER_MUTANTS)
def test_a_container_that_is_open_is_caught(
    name: str, docker: Given, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    change, caught = DOCKER_MUTANTS[name]
    changed(monkeypatch, change)
    check(docker, tmp_path, caught)


def test_a_container_that_is_left_is_caught(
    docker: Given, client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    remove, made = APIClient.remove_container, []

    def forget(self: Any, name: str, **options: Any) -> None:
        made.append(name)
        self.kill(name) if self.inspect_container(name)["State"]["Running"] else None

    with monkeypatch.context() as patch:
        patch.setattr(APIClient, "remove_container", forget)
        docker.traces = lambda: [each["Id"] for each in client.containers(all=True, filters={"label": "medperf=1"})]
        check(docker, tmp_path, ["test_nothing_is_left_of_a_task[0]", "test_nothing_is_left_of_a_task[7]"])
    for name in made:
        remove(client, name, force=True)


class LeavesPrograms(Wrapper):
    """Hands outputs over to root and keeps what makes a program run as its owner."""

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        program = request.mount("out").path / "suid"
        program.chmod(program.stat().st_mode | stat.S_ISUID)
        return outcome


def test_a_program_that_would_run_as_root_is_caught(docker: Given, tmp_path: Path) -> None:
    make = docker.make

    def broken(context: BackendContext) -> Runner:
        runner = LeavesPrograms(context)
        runner.inner = make(context)
        return runner

    docker.make = broken
    check(docker, tmp_path, ["test_privileges_no_output_runs_as_root"])


def test_every_test_of_the_kit_has_a_mutant() -> None:
    caught = [name for mutant in MUTANTS for name in mutant.CAUGHT]
    caught += [name for _, names in DOCKER_MUTANTS.values() for name in names]
    names = {name.partition("[")[0] for name in caught} | UNPROMISED | HERE
    assert {name for name in dir(RunnerContract) if name.startswith("test_")} == names
