"""Singularity runners that each break one promise, for the kit to catch: the engine's arguments are changed, or a step.

What stands here is changed while the runner runs tasks only: it still finds, and declares, all that it promises.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import attrs
import pytest
from medperf_singularity import arguments, engine, execute, parts, prepare, store
from medperf_singularity.config import ImageConfig

from medperf_core.entities import ImageIdentity, ImageSource
from medperf_core.plugin import BackendContext, CancelToken, PreparedImage
from medperf_core.plugin.layout import Bind
from tests.plugin.testing.runner_mutants import Tests

Patch = pytest.MonkeyPatch
Mutant = tuple[Callable[[Patch], object], Tests]


def words(change: Callable[[list[str]], list[str]]) -> Callable[[Patch], None]:
    """Have the engine called with other words than the runner gave."""

    def apply(patch: Patch) -> None:
        right = vars(execute)["engine_words"]
        patch.setattr(execute, "engine_words", lambda *given: tuple(change(list(right(*given)))))

    return apply


def without(*options: str, value: str = "") -> Callable[[Patch], None]:
    """Leave out options with the values that follow them; only those whose value has ``value`` in it."""

    def change(given: list[str]) -> list[str]:
        kept: list[str] = []
        for number, word in enumerate(given):
            before = given[number - 1] if number else ""
            gone = word in options and (word in ALONE or value in given[number + 1])
            gone |= before in options and before not in ALONE and value in word
            kept += [] if gone else [word]
        return kept

    return words(change)


ALONE = {"--containall", "--pid", "--ipc", "--no-home", "--net", "--no-privs", "--cleanenv"}
"""Options without a value."""


def more(*options: str) -> Callable[[Patch], None]:
    """Give the engine more options."""
    return words(lambda given: [*given[: given.index("exec") + 1], *options, *given[given.index("exec") + 1 :]])


def _keep_privileges(patch: Patch) -> None:
    planned(uid=0, gid=0)(patch)  # of anybody else the engine takes them in any case
    without("--drop-caps", "--no-privs")(patch)


def supervised(**changes: Any) -> Callable[[Patch], None]:
    """Watch the engine in another way."""
    right = vars(execute)["supervise"]
    return lambda patch: patch.setattr(
        execute, "supervise", lambda *given, **ways: right(*given, **{**ways, **changes})
    )


def planned(**changes: Any) -> Callable[[Patch], None]:
    """Start another container."""
    right = vars(execute)["describe"]
    return lambda patch: patch.setattr(execute, "describe", lambda *given: attrs.evolve(right(*given), **changes))


def _the_caller_s_environment(patch: Patch) -> None:
    right = engine.Engine.context_environment
    patch.setattr(engine.Engine, "context_environment", lambda self, context: {**os.environ, **right(self, context)})
    without("--cleanenv")(patch)


def _hand_nothing_back(patch: Patch) -> None:
    def wrong(binds: Iterable[Bind], uid: int, gid: int) -> AbstractContextManager[None]:
        for bind in binds:
            if bind.writable:
                bind.host.chmod(0o777)
        return nullcontext()

    patch.setattr(execute, "handed_over", wrong)


def _keep_folders(patch: Patch) -> None:
    def wrong(context: BackendContext) -> AbstractContextManager[Path]:
        return nullcontext(Path(tempfile.mkdtemp(dir=context.temp_dir)))

    patch.setattr(parts, "folder_of_run", wrong)


def _believe_the_store(patch: Patch) -> None:
    def believed(context: BackendContext, folder: Path) -> store.Entry | None:
        return store.Entry(folder, store.Record.load(folder / store.RECORD)) if folder.exists() else None

    patch.setattr(store, "_checked", believed)


def _expect_nothing(patch: Patch) -> None:
    right = prepare.prepare

    def wrong(made: Any, settings: Any, context: Any, source: ImageSource, expected: Iterable[ImageIdentity]) -> Any:
        return right(made, settings, context, source, ())

    patch.setattr(prepare, "prepare", wrong)


def _forget_the_image_s_words(patch: Patch) -> None:
    right = store.describe

    def wrong(context: BackendContext, prepared: PreparedImage) -> ImageConfig:
        return attrs.evolve(right(context, prepared), cmd=("leave", "0"))

    patch.setattr(store, "describe", wrong)


def _mounts(change: Callable[[Path, bool], tuple[Path, bool]]) -> Callable[[Patch], None]:
    """Mount something else, or in another way, than was said."""
    right = arguments.mount

    def wrong(path: Path, target: str, writable: bool) -> str:
        path, writable = change(path, writable)
        return right(path, target, writable)

    return lambda patch: patch.setattr(arguments, "mount", wrong)


SINGULARITY_MUTANTS: dict[str, Mutant] = {
    "network of the host": (
        without("--net", "--network"),
        ("test_network_only_loopback_is_there", "test_network_the_host_cannot_be_reached"),
    ),
    "root file system writable": (more("--writable-tmpfs"), ("test_mounts_the_root_file_system_cannot_be_written",)),
    "what the engine mounts by itself": (
        without("--containall", "--no-mount"),
        ("test_mounts_files_of_the_host_cannot_be_read",),
    ),
    "all files of the host": (
        more("--mount", "type=bind,source=/,destination=/host,ro"),
        ("test_mounts_files_of_the_host_cannot_be_read",),
    ),
    "programs of the host": (
        without("--containall", "--pid"),
        ("test_mounts_programs_of_the_host_cannot_be_seen",),
    ),
    "inputs writable": (_mounts(lambda path, writable: (path, True)), ("test_read_only_inputs_cannot_be_changed",)),
    "capabilities kept": (
        _keep_privileges,
        ("test_privileges_there_are_none", "test_privileges_never_root_on_the_host"),
    ),
    "no filter of system calls": (
        without("--security", value="seccomp:"),
        ("test_privileges_there_are_none", "test_privileges_cannot_be_gained"),
    ),
    "root": (planned(uid=0, gid=0), ("test_privileges_never_root_on_the_host",)),
    "memory": (
        without("--memory", "--memory-swap"),
        ("test_memory_is_limited", "test_memory_is_that_of_all_processes"),
    ),
    "processes": (without("--pids-limit"), ("test_processes_are_limited",)),
    "cpu": (without("--cpus"), ("test_cpu_is_limited",)),
    "time": (supervised(time_limit=None), ("test_time_is_limited",)),
    "cancelling": (supervised(cancel=CancelToken()), ("test_a_task_is_cancelled",)),
    "the caller's environment": (
        _the_caller_s_environment,
        ("test_nothing_of_the_host_s_environment_is_seen",),
    ),
    "recorded identities": (
        _expect_nothing,
        (
            "test_another_identity_is_refused",
            "test_an_identity_that_cannot_be_compared_is_refused",
            "test_nothing_of_a_refused_image_is_kept",
        ),
    ),
    "its own copy": (_believe_the_store, ("test_what_was_compared_is_what_runs",)),
    "size of /tmp": (planned(tmp_size=1 << 30), ("test_tmp_size_is_held",)),
    "user": (
        planned(uid=65534, gid=65534),
        ("test_user_is_the_one_that_was_asked_for",),
    ),
    "working folder": (
        planned(working_dir="/"),
        ("test_working_dir_is_the_one_that_was_asked_for", "test_it_starts_in_the_image_s_working_folder"),
    ),
    "outputs handed back": (_hand_nothing_back, ("test_outputs_belong_to_the_caller",)),
    "what is left": (_keep_folders, ("test_nothing_is_left_of_a_task[0]", "test_nothing_is_left_of_a_task[7]")),
    "the image's command": (_forget_the_image_s_words, ("test_the_image_s_own_command",)),
    "paths with commas": (
        _mounts(lambda path, writable: (path.parent if "," in path.name else path, writable)),
        ("test_a_path_cannot_break_a_volume[a comma]",),
    ),
}
