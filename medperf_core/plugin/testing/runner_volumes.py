"""Tests of a task's volumes: what is there, under whatever name, and what is left in the outputs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from medperf_core.entities.roles import VolumeKind
from medperf_core.entities.spec import CommandStyle
from medperf_core.errors import ExecutionError
from medperf_core.plugin.testing.runner_kit import Ran, RunnerKit, Volume, entries

HARMLESS = ("with blanks ", "ä ü 日本", "dol$lar", "equals=sign", "[brackets]*?", "semi;colon & more", "%20", "#~!")
SEPARATORS = {
    "a comma": "a,ro=false,source=",
    "a colon": "a:b:rw",
    "quotation marks": "a\"b'c",
    "a backslash": "a\\b",
    "a line's end": "a\nb",
}
"""Names that some engines read as something else; a runner may refuse them, but never mount another thing."""


class VolumeTests:
    """See the module."""

    @pytest.mark.parametrize("style", list(CommandStyle), ids=lambda style: style.value)
    def test_inputs_arrive_and_outputs_come_back(self, kit: RunnerKit, style: CommandStyle) -> None:
        """As files and as folders, in both styles of manifests."""
        kit.file("in/deep/er/file", "of a folder")
        outputs = [kit.new_folder("to"), kit.new_folder("result") / "results.yaml"]
        outputs[1].touch()
        volumes = [
            Volume("from_folder", kit.folder / "data" / "in"),
            Volume("to_folder", outputs[0], writable=True),
            Volume("from_file", kit.file("parameters.yaml", "of a file"), kind=VolumeKind.FILE),
            Volume("to_file", outputs[1], writable=True, kind=VolumeKind.FILE),
        ]
        ran = kit.run("copy", volumes=volumes, style=style)
        assert ran.outcome.exit_code == 0, ran.outcome.tail
        assert (outputs[0] / "deep" / "er" / "file").read_text() == "of a folder"
        assert outputs[1].read_text() == "of a file"
        assert {status.st_uid for _, status in entries(outputs[0])} == {os.geteuid()}
        assert outputs[1].stat().st_uid == os.geteuid()

    def test_volumes_with_odd_names(self, kit: RunnerKit) -> None:
        """Blanks, letters of all languages and a shell's signs, on this machine and in the container."""
        volumes = []
        for number, name in enumerate(HARMLESS):
            place = f"/data/{name}"
            volumes.append(Volume(f"from_{number}", kit.file(f"in/{name}/file", name).parent, place=place))
            volumes.append(Volume(f"to_{number}", kit.new_folder(f"to/{name}"), writable=True, place=f"{place}.out"))
        ran = kit.run("copy", volumes=volumes)
        assert ran.outcome.exit_code == 0, ran.outcome.tail
        for name in HARMLESS:
            assert (kit.folder / "data" / "to" / name / "file").read_text() == name

    @pytest.mark.parametrize("what", SEPARATORS)
    def test_a_path_cannot_break_a_volume(self, kit: RunnerKit, what: str) -> None:
        """A name that an engine could read as two, or as an option, is mounted as it is or refused with words."""
        name = SEPARATORS[what]
        source, target = kit.file(f"in/{name}/file", name).parent, kit.new_folder(f"to/{name}")
        volumes = [Volume("from_it", source), Volume("to_it", target, writable=True)]
        self._copied(kit, volumes, target, f"volumes whose path has {what}")

    @pytest.mark.parametrize("what", SEPARATORS)
    def test_a_place_cannot_break_a_volume(self, kit: RunnerKit, what: str) -> None:
        """The same for the place in the container, which a stranger's manifest names."""
        name = SEPARATORS[what]
        source, target = kit.file("in/file", name).parent, kit.new_folder("to")
        places = (f"/data/{name}/in", f"/data/{name}/out")
        volumes = [Volume("from_it", source, place=places[0]), Volume("to_it", target, writable=True, place=places[1])]
        self._copied(kit, volumes, target, f"volumes whose place in the container has {what}")

    def _copied(self, kit: RunnerKit, volumes: list[Volume], target: Path, what: str) -> None:
        request = kit.request("copy", volumes=volumes)
        prepared = kit.prepared
        try:
            outcome = kit.runner().run(prepared, request)
        except ExecutionError:
            assert not list(target.iterdir())
            kit.skip(what)
        assert outcome.exit_code == 0, outcome.tail
        assert [path.name for path in target.iterdir()] == ["file"]

    def test_outputs_belong_to_the_caller(self, kit: RunnerKit) -> None:
        """Whoever the task ran as, and whatever it left: links, pipes, folders that it shut. They can be removed."""
        ran = self._mess(kit)
        assert {status.st_uid for _, status in entries(ran.out)} == {os.geteuid()}
        shutil.rmtree(ran.out)

    def test_links_in_outputs_lead_nobody_out(self, kit: RunnerKit) -> None:
        """What they point to keeps its content, its owner and its mode."""
        secret = kit.file("elsewhere/secret")
        before = [path.stat() for path in (secret, secret.parent)]
        self._mess(kit)
        after = [path.stat() for path in (secret, secret.parent)]
        assert [(each.st_uid, each.st_gid, each.st_mode, each.st_size) for each in after] == [
            (each.st_uid, each.st_gid, each.st_mode, each.st_size) for each in before
        ]

    def _mess(self, kit: RunnerKit) -> Ran:
        ran = kit.run("mess", str(kit.folder / "data" / "elsewhere" / "secret"))
        assert ran.outcome.exit_code == 0, ran.outcome.tail
        return ran
