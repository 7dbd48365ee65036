"""Runners that each break one promise, for the kit to catch; around the process runner and around Docker's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs

from medperf_core.builtin.process import make as make_process
from medperf_core.entities import IdentityKind, ImageIdentity, ImageSource
from medperf_core.errors import ExecutionError, VerificationError
from medperf_core.plugin import (
    BackendContext,
    CancelToken,
    Capabilities,
    NoSettings,
    PreparedImage,
    Runner,
    TaskLog,
    TaskOutcome,
    TaskRequest,
)
from medperf_core.plugin.tasklog import LOG_LIMIT

Tests = tuple[str, ...]


class Wrapper(Runner):
    """The process runner as it is; each mutant changes one thing of it."""

    def __init__(self, context: BackendContext) -> None:
        self.context = context
        self.inner = make_process(NoSettings(), context)

    def capabilities(self) -> Capabilities:
        return self.inner.capabilities()

    def supports(self, source: ImageSource) -> bool:
        return self.inner.supports(source)

    def prepare(self, source: ImageSource, expected: Iterable[ImageIdentity] = ()) -> PreparedImage:
        return self.inner.prepare(source, expected)

    def run(self, prepared: PreparedImage, request: TaskRequest) -> TaskOutcome:
        return self.after(self.inner.run(prepared, self.before(request)), request)

    def command_line(self, prepared: PreparedImage, request: TaskRequest) -> tuple[str, ...]:
        return self.inner.command_line(prepared, request)

    def before(self, request: TaskRequest) -> TaskRequest:
        return request

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        return outcome


class IgnoresExpected(Wrapper):
    CAUGHT = (
        "test_another_identity_is_refused",
        "test_an_identity_that_cannot_be_compared_is_refused",
        "test_nothing_of_a_refused_image_is_kept",
    )

    def prepare(self, source: ImageSource, expected: Iterable[ImageIdentity] = ()) -> PreparedImage:
        return self.inner.prepare(source)


class TakesOneRightIdentity(Wrapper):
    CAUGHT = ("test_an_identity_that_cannot_be_compared_is_refused",)

    def prepare(self, source: ImageSource, expected: Iterable[ImageIdentity] = ()) -> PreparedImage:
        return self.inner.prepare(source, [each for each in expected if each.kind is IdentityKind.SOURCE])


class KeepsWhatItRefuses(Wrapper):
    CAUGHT = ("test_nothing_of_a_refused_image_is_kept",)

    def prepare(self, source: ImageSource, expected: Iterable[ImageIdentity] = ()) -> PreparedImage:
        self.inner.prepare(source)
        return self.inner.prepare(source, expected)


class RefusesTheRightImage(Wrapper):
    CAUGHT = ("test_the_recorded_image_is_accepted",)

    def prepare(self, source: ImageSource, expected: Iterable[ImageIdentity] = ()) -> PreparedImage:
        if tuple(expected):
            raise VerificationError("It is never what was recorded.")
        return self.inner.prepare(source)


class ReportsAnotherIdentity(Wrapper):
    CAUGHT = ("test_the_image_s_identities_are_reported_truly",)

    def prepare(self, source: ImageSource, expected: Iterable[ImageIdentity] = ()) -> PreparedImage:
        wrong = ImageIdentity(IdentityKind.SOURCE, f"sha256:{'1' * 64}")
        return attrs.evolve(self.inner.prepare(source, expected), identities=(wrong,))


class RunsATag(Wrapper):
    CAUGHT = ("test_what_is_run_is_not_named_by_a_tag",)

    def prepare(self, source: ImageSource, expected: Iterable[ImageIdentity] = ()) -> PreparedImage:
        return attrs.evolve(self.inner.prepare(source, expected), reference="localhost/image:latest")


class RunsWhatIsThereNow(Wrapper):
    CAUGHT = ("test_what_was_compared_is_what_runs", "test_only_prepared_images_are_run")

    def run(self, prepared: PreparedImage, request: TaskRequest) -> TaskOutcome:
        return self.inner.run(self.inner.prepare(prepared.source), request)


class FailsWithoutWords(Wrapper):
    CAUGHT = ("test_a_kind_of_image_that_is_not_supported_is_refused_with_words",)

    def prepare(self, source: ImageSource, expected: Iterable[ImageIdentity] = ()) -> PreparedImage:
        if not self.supports(source):
            raise KeyError(source.kind)
        return self.inner.prepare(source, expected)


class PreparesNoData(Wrapper):
    CAUGHT = ("test_a_prepared_image_is_plain_data",)

    def prepare(self, source: ImageSource, expected: Iterable[ImageIdentity] = ()) -> PreparedImage:
        odd: Any = ["a list"]
        return attrs.evolve(self.inner.prepare(source, expected), command=odd)


class SwallowsExitCodes(Wrapper):
    CAUGHT = ("test_exit_codes_are_told[7]", "test_a_signal_is_told_as_the_shell_tells_it[15]")

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        return attrs.evolve(outcome, exit_code=0)


class TellsSignalsAsPythonDoes(Wrapper):
    CAUGHT = ("test_a_signal_is_told_as_the_shell_tells_it[11]", "test_a_signal_is_told_as_the_shell_tells_it[15]")

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        code = outcome.exit_code
        return attrs.evolve(outcome, exit_code=128 - code if code > 128 else code)


class RaisesWhenATaskFails(Wrapper):
    CAUGHT = ("test_exit_codes_are_told[7]",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        if outcome.exit_code:
            raise ExecutionError("It failed.")
        return outcome


class CallsItATimeOut(Wrapper):
    CAUGHT = ("test_exit_codes_are_told[0]", "test_exit_codes_are_told[7]")

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        return attrs.evolve(outcome, timed_out=True)


class ReadsArgumentsAsAShell(Wrapper):
    CAUGHT = ("test_arguments_are_literal",)

    def before(self, request: TaskRequest) -> TaskRequest:
        words = tuple(os.path.expandvars(word) for word in request.task.process_command)
        return attrs.evolve(request, task=attrs.evolve(request.task, process_command=words))


class ReadsVariablesAsAShell(Wrapper):
    CAUGHT = ("test_variables_are_literal",)

    def before(self, request: TaskRequest) -> TaskRequest:
        return attrs.evolve(request, environment={name: value.strip() for name, value in request.environment.items()})


class LetsTheManifestWin(Wrapper):
    CAUGHT = ("test_variables_are_literal",)

    def before(self, request: TaskRequest) -> TaskRequest:
        return attrs.evolve(request, environment={**request.environment, **request.task.environment})


class LeaksTheEnvironment(Wrapper):
    CAUGHT = ("test_nothing_of_the_host_s_environment_is_seen",)

    def before(self, request: TaskRequest) -> TaskRequest:
        leaked = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        return attrs.evolve(request, environment={**leaked, **request.environment})


class TellsNoLines(Wrapper):
    CAUGHT = ("test_output_is_told_line_by_line", "test_a_task_is_cancelled")

    def __init__(self, context: BackendContext) -> None:
        emit = context.emit
        super().__init__(attrs.evolve(context, emit=lambda event: None if isinstance(event, TaskLog) else emit(event)))


class ForgetsTheTail(Wrapper):
    CAUGHT = ("test_output_is_told_line_by_line",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        return attrs.evolve(outcome, tail=outcome.tail[:3])


class CleansTheLog(Wrapper):
    CAUGHT = ("test_all_output_is_in_the_log_file",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        request.log.write_text(request.log.read_text("utf-8", "replace"))
        return outcome


class LosesOneStream(Wrapper):
    CAUGHT = ("test_all_output_is_in_the_log_file",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        request.log.write_bytes(b"\n".join(request.log.read_bytes().split(b"\n")[::2]))
        return outcome


class KeepsAllOfAFlood(Wrapper):
    CAUGHT = ("test_a_flood_of_output_is_cut",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        if outcome.log_truncated:
            os.truncate(request.log, LOG_LIMIT + 1)
        return outcome


class CutsWithoutAWord(Wrapper):
    CAUGHT = ("test_a_flood_of_output_is_cut",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        return attrs.evolve(outcome, log_truncated=False)


class ForgetsWaivers(Wrapper):
    CAUGHT = ("test_what_is_reported_of_a_task",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        return attrs.evolve(outcome, waivers=())


class ForgetsTheImage(Wrapper):
    CAUGHT = ("test_what_is_reported_of_a_task",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        return attrs.evolve(outcome, images=())


class TellsTheLocalTime(Wrapper):
    CAUGHT = ("test_what_is_reported_of_a_task",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        return attrs.evolve(outcome, started=outcome.started.partition("+")[0])


class ReportsNoData(Wrapper):
    CAUGHT = ("test_an_outcome_is_plain_data",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        odd: Any = list(outcome.tail)
        return attrs.evolve(outcome, tail=odd)


class TellsSecretsBefore(Wrapper):
    CAUGHT = ("test_the_command_line_tells_no_secret",)

    def command_line(self, prepared: PreparedImage, request: TaskRequest) -> tuple[str, ...]:
        return (*request.environment.values(), *self.inner.command_line(prepared, request))


class TellsSecretsAfterwards(Wrapper):
    CAUGHT = ("test_the_command_line_tells_no_secret",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        return attrs.evolve(outcome, command=(*request.environment.values(), *outcome.command))


class SharesItsScratch(Wrapper):
    CAUGHT = ("test_tasks_do_not_find_what_others_left",)

    def before(self, request: TaskRequest) -> TaskRequest:
        folder = self.context.cache_dir / "scratch"
        folder.mkdir(exist_ok=True)
        return attrs.evolve(request, environment={**request.environment, "TMPDIR": str(folder)})


class RemembersOneTask(Wrapper):
    CAUGHT = ("test_two_runners_at_the_same_time",)
    shared: dict[str, TaskRequest] = {}  # noqa: RUF012

    def before(self, request: TaskRequest) -> TaskRequest:
        self.shared["task"] = request
        time.sleep(0.3)
        return self.shared["task"]


class LosesOutputs(Wrapper):
    CAUGHT = ("test_inputs_arrive_and_outputs_come_back[fixed]", "test_inputs_arrive_and_outputs_come_back[mlcube]")

    def before(self, request: TaskRequest) -> TaskRequest:
        lost = self.context.cache_dir / "lost"
        lost.mkdir(exist_ok=True)
        mounts = [attrs.evolve(each, path=lost) if each.label == "to_folder" else each for each in request.mounts]
        return attrs.evolve(request, mounts=tuple(mounts))


class TrimsPaths(Wrapper):
    CAUGHT = ("test_volumes_with_odd_names",)

    def before(self, request: TaskRequest) -> TaskRequest:
        mounts = [attrs.evolve(each, path=Path(str(each.path).strip())) for each in request.mounts]
        return attrs.evolve(request, mounts=tuple(mounts))


class CutsPathsAtCommas(Wrapper):
    CAUGHT = ("test_a_path_cannot_break_a_volume[a comma]",)

    def before(self, request: TaskRequest) -> TaskRequest:
        mounts = [attrs.evolve(each, path=Path(str(each.path).split(",")[0])) for each in request.mounts]
        return attrs.evolve(request, mounts=tuple(mounts))


class LeavesOutputsToOthers(Wrapper):
    CAUGHT = ("test_outputs_belong_to_the_caller",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        os.chown(request.mount("out").path / "deep", 12345, 12345)
        return outcome


class FollowsLinks(Wrapper):
    CAUGHT = ("test_links_in_outputs_lead_nobody_out",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        (request.mount("out").path / "link").chmod(0o600)
        return outcome


class LeavesTemporaryFiles(Wrapper):
    CAUGHT = ("test_nothing_is_left_of_a_task[0]", "test_nothing_is_left_of_a_task[7]")

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        (self.context.temp_dir / "left").touch()
        return outcome


class LeavesAProcess(Wrapper):
    CAUGHT = ("test_nothing_is_left_of_a_task[0]", "test_nothing_is_left_of_a_task[7]")

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        code = "import time; print(flush=True); time.sleep(2)"
        left = subprocess.Popen([sys.executable, "-c", code, *request.task.process_command], stdout=subprocess.PIPE)
        if left.stdout is not None:
            left.stdout.readline()  # from here on it can be seen
        return outcome


class IgnoresCancel(Wrapper):
    CAUGHT = ("test_a_task_is_cancelled", "test_a_cancelled_task_is_not_started")

    def __init__(self, context: BackendContext) -> None:
        super().__init__(attrs.evolve(context, cancel=CancelToken()))


class StartsBeforeItLooks(Wrapper):
    CAUGHT = ("test_a_cancelled_task_is_not_started",)

    def run(self, prepared: PreparedImage, request: TaskRequest) -> TaskOutcome:
        (request.mount("out").path / "mine").touch()
        return self.inner.run(prepared, request)


class IgnoresTheTimeLimit(Wrapper):
    CAUGHT = ("test_time_is_limited",)

    def before(self, request: TaskRequest) -> TaskRequest:
        return attrs.evolve(request, time_limit=None)


class HidesWhoHoldsLimits(Wrapper):
    CAUGHT = ("test_limits_are_recorded",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        return attrs.evolve(outcome, limits=dict.fromkeys(outcome.limits, "engine 1"))


class EndsEveryTaskForMemory(Wrapper):
    CAUGHT = ("test_memory_within_the_limit_is_given",)

    def after(self, outcome: TaskOutcome, request: TaskRequest) -> TaskOutcome:
        return attrs.evolve(outcome, out_of_memory=True)


MUTANTS: tuple[type[Wrapper], ...] = tuple(Wrapper.__subclasses__())

Change = Callable[[dict[str, Any], dict[str, Any]], object]
"""Changes the arguments of the SDK's ``create_container`` and the host's part of them."""


def _all_mounts(key: str, value: Any) -> Change:
    return lambda _, host: [mount.update({key: value}) for mount in host["Mounts"]]


def _more(key: str, value: Any) -> Change:
    return lambda _, host: host[key].append(value)


def _no_program(arguments: dict[str, Any], host: dict[str, Any]) -> None:
    if arguments["command"] is None:
        arguments["command"] = ["leave", "0"]


def _without_task(arguments: dict[str, Any], host: dict[str, Any]) -> None:
    if arguments["command"][0] == "facts":
        arguments["command"][0] = "own"


DOCKER_MUTANTS: dict[str, tuple[Change, Tests]] = {
    "network of the host": (
        lambda _, host: host.update(NetworkMode="host"),
        ("test_network_only_loopback_is_there", "test_network_the_host_cannot_be_reached"),
    ),
    "root file system writable": (
        lambda _, host: host.update(ReadonlyRootfs=False),
        ("test_mounts_the_root_file_system_cannot_be_written",),
    ),
    "files of the host": (
        lambda _, host: host["Mounts"].append({"Type": "bind", "Source": "/", "Target": "/host", "ReadOnly": True}),
        ("test_mounts_files_of_the_host_cannot_be_read",),
    ),
    "programs of the host": (
        lambda _, host: host.update(PidMode="host"),
        ("test_mounts_programs_of_the_host_cannot_be_seen",),
    ),
    "inputs writable": (_all_mounts("ReadOnly", False), ("test_read_only_inputs_cannot_be_changed",)),
    "capabilities kept": (lambda _, host: host.update(CapDrop=None), ("test_privileges_there_are_none",)),
    "new privileges": (
        lambda _, host: host.update(SecurityOpt=[]),
        ("test_privileges_there_are_none", "test_privileges_cannot_be_gained"),
    ),
    "no filter of system calls": (
        _more("SecurityOpt", "seccomp=unconfined"),
        ("test_privileges_there_are_none", "test_privileges_cannot_be_gained"),
    ),
    "root": (lambda arguments, _: arguments.update(user="0:0"), ("test_privileges_never_root_on_the_host",)),
    "memory": (
        lambda _, host: host.update(Memory=0, MemorySwap=0),
        ("test_memory_is_limited", "test_memory_is_that_of_all_processes"),
    ),
    "processes": (lambda _, host: host.update(PidsLimit=None), ("test_processes_are_limited",)),
    "cpu": (lambda _, host: host.update(NanoCpus=None), ("test_cpu_is_limited",)),
    "size of /tmp": (
        lambda _, host: host.update(Tmpfs={"/tmp": "rw,exec,mode=1777"}),
        ("test_tmp_size_is_held",),
    ),
    "user": (
        lambda arguments, _: arguments.update(user="65534:65534"),
        ("test_user_is_the_one_that_was_asked_for", "test_user_s_outputs_belong_to_the_caller"),
    ),
    "working folder": (
        lambda arguments, _: arguments.update(working_dir="/"),
        ("test_working_dir_is_the_one_that_was_asked_for", "test_it_starts_in_the_image_s_working_folder"),
    ),
    "standard input": (lambda arguments, _: arguments.update(stdin_open=True), ("test_there_is_no_standard_input",)),
    "the image's command": (_no_program, ("test_the_image_s_own_command",)),
    "the image's variables": (
        lambda arguments, _: arguments["environment"].append("PROBE_IMAGE=another"),
        ("test_the_image_s_variables_are_set",),
    ),
    "the task's name": (_without_task, ("test_a_task_in_the_mlcube_style",)),
    "places without commas": (
        lambda _, host: [mount.update(Target=mount["Target"].replace(",", "_")) for mount in host["Mounts"]],
        ("test_a_place_cannot_break_a_volume[a comma]",),
    ),
}
