"""Packagers that break one promise each, and one that breaks none. Not collected; see test_kit_mutations.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from medperf_core.builtin._mlcube_packager import MlcubePackager
from medperf_core.entities import ContainerSpec, ImageSource, SourceKind, TaskSpec
from medperf_core.errors import InvalidEntityError
from medperf_core.plugin import LocalFiles, Manifest, PackagerPlugin
from medperf_core.plugin.testing.packagers import Manifests, PackagerContract

DATA = Path(__file__).parents[2] / "data" / "manifests"


class OfMlcubes(PackagerContract):
    """The ``mlcube`` packager, or what a subclass makes of it."""

    packager_class: ClassVar[type[MlcubePackager]] = MlcubePackager
    caught_by: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def plugin(self) -> PackagerPlugin:
        return PackagerPlugin(name="mlcube", summary="mlcubes", api=1, make=lambda settings: self.packager_class())

    @pytest.fixture
    def manifests(self) -> Manifests:
        return [DATA / "mlcube_model.yaml"]


def with_tasks(spec: ContainerSpec, **changes: Any) -> ContainerSpec:
    """The description with these changes in each of its tasks' volumes."""

    def change(task: TaskSpec) -> TaskSpec:
        return attrs.evolve(task, volumes=tuple(attrs.evolve(volume, **changes) for volume in task.volumes))

    return attrs.evolve(spec, tasks={name: change(task) for name, task in spec.tasks.items()})


class TestSoundPackager(OfMlcubes):
    pass


class TestDropsKeys(OfMlcubes):
    caught_by = ("test_no_key_is_dropped_in_silence",)

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            known = {key: value for key, value in manifest.data.items() if not key.startswith("zz")}
            return super().read(attrs.evolve(manifest, data=known))


class TestTellsOneProblem(OfMlcubes):
    caught_by = ("test_all_problems_are_told_at_once",)

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            try:
                return super().read(manifest)
            except InvalidEntityError as error:
                raise InvalidEntityError(error.message, problems=error.problems[:1]) from error


class TestTellsNoLines(OfMlcubes):
    caught_by = ("test_a_problem_is_told_with_its_line",)

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            return super().read(attrs.evolve(manifest, lines={}))


class TestMakesOutputsOfInputs(OfMlcubes):
    caught_by = ("test_a_good_manifest_is_read", "test_inputs_never_become_outputs")

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            return with_tasks(super().read(manifest), writable=True)


class TestBelievesTheManifest(OfMlcubes):
    """Takes an input for an output only where the manifest says so."""

    caught_by = ("test_inputs_never_become_outputs",)

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            outputs = manifest.data.get("tasks", {}).get("infer", {}).get("parameters", {}).get("outputs", {})
            spec = super().read(attrs.evolve(manifest, data=self._turned(manifest.data)))
            if "data_path" not in outputs:
                return spec
            return with_tasks(spec, writable=True)

        @staticmethod
        def _turned(data: dict[str, Any]) -> dict[str, Any]:
            task = data.get("tasks", {}).get("infer")
            sides = task.get("parameters", {}) if isinstance(task, dict) else {}
            outputs = sides.get("outputs", {})
            if "data_path" not in outputs:
                return data
            inputs = {**sides.get("inputs", {}), "data_path": outputs["data_path"]}
            kept = {label: value for label, value in outputs.items() if label != "data_path"}
            infer = {**task, "parameters": {"inputs": inputs, "outputs": kept}}
            return {**data, "tasks": {**data["tasks"], "infer": infer}}


class TestFollowsPaths(OfMlcubes):
    caught_by = ("test_nonsense_is_refused_with_words_or_does_no_harm",)

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            spec = super().read(manifest)
            context = (manifest.data.get("docker") or {}).get("build_context")
            if manifest.base is None or not isinstance(context, str):
                return spec
            folder = ImageSource(SourceKind.TREE, str(manifest.base / context))
            return attrs.evolve(spec, sources=(*spec.sources, folder))


class TestNamesFoldersForServers(OfMlcubes):
    caught_by = ("test_what_a_server_sends_names_nothing_of_this_machine",)

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            spec = super().read(manifest)
            return spec if manifest.base else attrs.evolve(spec, project="/srv/project")


class TestFailsWithoutWords(OfMlcubes):
    caught_by = ("test_what_is_missing_is_told_or_does_no_harm",)

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            str(manifest.data["docker"]["image"])
            return super().read(manifest)


class TestChangesTheManifest(OfMlcubes):
    caught_by = ("test_a_good_manifest_is_read",)

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            spec = super().read(manifest)
            manifest.data.pop("description", None)
            return spec


class TestTakesEverything(OfMlcubes):
    caught_by = ("test_it_knows_its_own_manifests_only",)

    class packager_class(MlcubePackager):
        def recognizes(self, data: dict[str, Any]) -> bool:
            return True


class TestErrorsHaveNoEnd(OfMlcubes):
    caught_by = ("test_an_error_has_an_end",)

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            try:
                return super().read(manifest)
            except InvalidEntityError as error:
                raise InvalidEntityError(f"{manifest.data}", problems=error.problems) from error


class TestHasAnotherNameElsewhere(OfMlcubes):
    caught_by = ("test_the_description_is_the_same_after_a_journey",)

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            return attrs.evolve(super().read(manifest), name=Path(manifest.name).stem)


class TestDoublesLabels(OfMlcubes):
    caught_by = ("test_a_good_manifest_is_read",)

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            spec = super().read(manifest)
            tasks = {
                name: attrs.evolve(task, volumes=task.volumes + task.volumes[:1]) for name, task in spec.tasks.items()
            }
            return attrs.evolve(spec, tasks=tasks)


class TestTakesAnyLabel(OfMlcubes):
    caught_by = ("test_hostile_names_make_no_labels",)

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            for name in manifest.data.get("tasks") or {}:
                TaskSpec(name=name, volumes=(), style="mlcube")
            return super().read(manifest)


class TestWrites(OfMlcubes):
    caught_by = ("test_nonsense_is_refused_with_words_or_does_no_harm",)

    class packager_class(MlcubePackager):
        def read(self, manifest: Manifest) -> ContainerSpec:
            if manifest.base:
                (manifest.base / "workspace" / "read.log").touch()
            return super().read(manifest)


class TestTemplateKeepsTheName(OfMlcubes):
    caught_by = ("test_a_template_is_a_good_manifest_of_that_name",)

    class packager_class(MlcubePackager):
        def template(self, data: dict[str, Any], name: str) -> dict[str, Any]:
            return {**super().template(data, name), "name": re.sub(r"\W", "", name)}


class TestInventsFiles(OfMlcubes):
    caught_by = ("test_files_are_those_that_are_there",)

    class packager_class(MlcubePackager):
        def files(self, manifest: Path) -> LocalFiles:
            return attrs.evolve(super().files(manifest), parameters=manifest.with_name("parameters.yaml"))


class TestNamesAPath(OfMlcubes):
    caught_by = ("test_the_descriptor_is_usable",)

    class packager_class(MlcubePackager):
        file_names = ("mlcube/mlcube.yaml",)
