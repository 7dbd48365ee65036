"""Tests of the conditions that a runner says it can make for a task."""

from __future__ import annotations

import os
import shutil

from medperf_core.entities.roles import VolumeKind
from medperf_core.plugin import Condition, Resources
from medperf_core.plugin.testing.runner_kit import RunnerKit, Volume, entries

MIB = 1 << 20
USER = (12345, 23456)


class ConditionTests:
    """See the module."""

    def test_user_is_the_one_that_was_asked_for(self, kit: RunnerKit) -> None:
        """With outputs that it can write, as folders and as files."""
        kit.needs(Condition.USER)
        result = kit.new_folder("result") / "results.yaml"
        result.touch()
        volumes = [
            Volume("from_it", kit.file("parameters.yaml", "of a file"), kind=VolumeKind.FILE),
            Volume("to_it", result, writable=True, kind=VolumeKind.FILE),
        ]
        user = ":".join(map(str, USER))
        report = kit.report("facts", user=user)
        assert (report["uid"], report["gid"]) == USER
        assert kit.run("copy", volumes=volumes, user=user).outcome.exit_code == 0
        assert result.read_text() == "of a file"
        assert result.stat().st_uid == os.geteuid()

    def test_user_s_outputs_belong_to_the_caller(self, kit: RunnerKit) -> None:
        """And can be removed."""
        kit.needs(Condition.USER)
        ran = kit.run("mess", "/nowhere/secret", user=":".join(map(str, USER)))
        assert ran.outcome.exit_code == 0, ran.outcome.tail
        assert {status.st_uid for _, status in entries(ran.out)} == {os.geteuid()}
        shutil.rmtree(ran.out)

    def test_tmp_size_is_held(self, kit: RunnerKit) -> None:
        """/tmp takes that much and no more."""
        kit.needs(Condition.TMP_SIZE)
        for size in (8 * MIB, 16 * MIB):
            report = kit.report("fill", "/tmp", str(64 * MIB), resources=Resources(tmp_size=size))
            assert size - MIB <= report["written"] <= size

    def test_working_dir_is_the_one_that_was_asked_for(self, kit: RunnerKit) -> None:
        """Instead of the image's."""
        kit.needs(Condition.WORKING_DIR)
        assert kit.report("facts", working_dir="/usr/local/bin")["cwd"] == "/usr/local/bin"
