"""The conformance kit of the packager seam.

Subclass ``PackagerContract``, define the fixtures ``plugin`` and ``manifests``, and run pytest. The kit takes the good
manifests apart and puts together what a stranger might write.
"""

from __future__ import annotations

import copy
import itertools
import json
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.entities.codec import from_data, to_data
from medperf_core.entities.image import SourceKind
from medperf_core.entities.roles import volume_rules
from medperf_core.entities.spec import ContainerSpec, VolumeSpec
from medperf_core.errors import InvalidEntityError
from medperf_core.plugin.descriptors import PackagerPlugin
from medperf_core.plugin.manager import PluginManager
from medperf_core.plugin.manifest import load_manifest, manifest_from_data, parse_manifest
from medperf_core.plugin.packager import Manifest, Packager
from medperf_core.plugin.testing import manifest_changes as changes
from medperf_core.plugin.testing.common import check_descriptor, fill_in
from medperf_core.plugin.testing.promises import not_promised

Manifests = Sequence[Path | str]
"""Manifests that the packager must read: files, which may have other files beside them, or texts."""

FOREIGN: tuple[dict[str, Any], ...] = (
    {},
    {"x": 1},
    {"name": "x", "description": "y"},
    {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"image": "x"}]}},
    {"services": {"web": {"image": "x", "volumes": ["/:/host"]}}},
)
UNKNOWN, OTHER = "zz-unknown", "zz-other"
MAX_ERROR = 20_000


class PackagerContract:
    """What every packager does."""

    @pytest.fixture
    def plugin(self) -> PackagerPlugin:
        """To be defined: the packager's descriptor."""
        fill_in("PackagerContract", "plugin", "the packager's PackagerPlugin")

    @pytest.fixture
    def manifests(self) -> Manifests:
        """To be defined: good manifests; together they should use all that the format has."""
        fill_in("PackagerContract", "manifests", "manifests (texts or paths) that it must read")

    @pytest.fixture
    def packager(self, plugin: PackagerPlugin) -> Packager:
        return plugin.make(plugin.settings())

    @pytest.fixture
    def good(self, manifests: Manifests) -> list[Manifest]:
        """The good manifests, with the folder of those that are files."""
        assert manifests, "there are no manifests to read"
        return [
            load_manifest(each)
            if isinstance(each, Path)
            else parse_manifest(each.encode(), name=f"manifest {number} of the test")
            for number, each in enumerate(manifests)
        ]

    @pytest.fixture
    def here(self, tmp_path: Path) -> Path:
        """A container's folder, with something outside of it that a manifest must not get at."""
        folder, outside = tmp_path / "home" / "container", tmp_path / "outside"
        (folder / "workspace").mkdir(parents=True)
        outside.mkdir()
        for name in ("Dockerfile", "main.py"):
            (outside / name).write_text("")
            (folder / name).write_text("")
        for place in (folder, folder / "workspace"):
            (place / changes.LEADS_OUT).symlink_to(outside)
        return folder

    def test_the_descriptor_is_usable(self, plugin: PackagerPlugin, packager: Packager) -> None:
        check_descriptor(plugin, PackagerPlugin)
        assert isinstance(packager, Packager)
        assert packager.file_names, "it names no manifest file"
        assert all(Path(name).name == name for name in packager.file_names), "file names are names, not paths"

    def test_it_knows_its_own_manifests_only(
        self, plugin: PackagerPlugin, packager: Packager, good: list[Manifest]
    ) -> None:
        others = [
            found.make(found.settings())
            for found in PluginManager.discover().all(PackagerPlugin)
            if found.name != plugin.name
        ]
        for manifest in good:
            assert packager.recognizes(manifest.data) is True
            assert not [each for each in others if each.recognizes(manifest.data)], "another packager takes it, too"
            for key in manifest.data:
                for value in changes.NONSENSE:
                    assert packager.recognizes({**manifest.data, key: value}) in (True, False)
        for data in FOREIGN:
            assert packager.recognizes(data) is False, f"it takes {data} for its own"

    def test_a_good_manifest_is_read(self, plugin: PackagerPlugin, packager: Packager, good: list[Manifest]) -> None:
        for manifest in good:
            before = copy.deepcopy(manifest)
            spec = packager.read(manifest)
            assert spec.format == plugin.name
            assert spec.tasks, "it has no tasks"
            check_spec(spec, manifest)
            assert manifest == before, "reading changed the manifest"
            assert packager.read(manifest) == spec, "read again, it says something else"

    def test_the_description_is_the_same_after_a_journey(self, packager: Packager, good: list[Manifest]) -> None:
        for manifest in good:
            alone = attrs.evolve(manifest, base=None, project=None)
            spec = packager.read(alone)
            assert packager.read(manifest_from_data(manifest.data, "container 1")) == spec, "from a server it differs"
            text = json.dumps(manifest.data).encode()
            assert packager.read(parse_manifest(text, name="it")) == spec, "written anew it differs"

    def test_what_a_server_sends_names_nothing_of_this_machine(self, packager: Packager, good: list[Manifest]) -> None:
        for manifest in good:
            spec = packager.read(manifest_from_data(manifest.data, "container 1"))
            assert spec.project is None
            assert {source.kind for source in spec.sources} <= {SourceKind.REGISTRY}

    def test_no_key_is_dropped_in_silence(self, packager: Packager, good: list[Manifest]) -> None:
        for manifest in good:
            spec = packager.read(manifest)
            for place, _ in changes.maps(manifest.data):
                for value in ("x", {"zz": 1}):
                    data = changes.replaced(manifest.data, (*place, UNKNOWN), value)
                    read = attempt(packager, attrs.evolve(manifest, data=data))
                    assert read is None or read != spec, f"{UNKNOWN} at {place} is neither carried nor refused"

    def test_all_problems_are_told_at_once(
        self, plugin: PackagerPlugin, packager: Packager, good: list[Manifest]
    ) -> None:
        tried = 0
        for manifest in good:
            refused = [
                place
                for place, _ in changes.maps(manifest.data)
                if attempt(packager, with_keys(manifest, {place: UNKNOWN})) is None
            ]
            for first, last in itertools.pairwise(refused):
                with pytest.raises(InvalidEntityError) as caught:
                    packager.read(with_keys(manifest, {first: UNKNOWN, last: OTHER}))
                assert UNKNOWN in str(caught.value) and OTHER in str(caught.value), "only one of two problems is told"
                tried += 1
        if not tried:
            not_promised(plugin.name, "to refuse any key")

    def test_a_problem_is_told_with_its_line(self, packager: Packager, manifests: Manifests) -> None:
        for each in manifests:
            text = (each.read_text("utf-8") if isinstance(each, Path) else each).rstrip("\n")
            line = text.count("\n") + 2
            manifest = parse_manifest(f"{text}\n{UNKNOWN}: 1\n".encode(), name="it")
            if attempt(packager, manifest) is None:
                with pytest.raises(InvalidEntityError, match=f"line {line}"):
                    packager.read(manifest)

    def test_nonsense_is_refused_with_words_or_does_no_harm(
        self, packager: Packager, good: list[Manifest], here: Path
    ) -> None:
        before = sorted(here.parents[1].rglob("*"))
        for manifest in good:
            for place, _ in changes.places(manifest.data):
                for value in changes.NONSENSE if place else ():
                    data = changes.replaced(manifest.data, place, value)
                    attempt(packager, Manifest(data, here if isinstance(value, str) else None, "it"))
        assert sorted(here.parents[1].rglob("*")) == before, "reading wrote something"

    def test_what_is_missing_is_told_or_does_no_harm(self, packager: Packager, good: list[Manifest]) -> None:
        for manifest in good:
            for place, value in changes.maps(manifest.data):
                for key in value:
                    data = copy.deepcopy(manifest.data)
                    del changes.at(data, place)[key]
                    attempt(packager, Manifest(data, None, "it"))

    @pytest.mark.parametrize("name", changes.NAMES)
    def test_hostile_names_make_no_labels(self, name: str, packager: Packager, good: list[Manifest]) -> None:
        for manifest in good:
            for place, value in changes.maps(manifest.data):
                for key in value:
                    attempt(packager, Manifest(changes.renamed(manifest.data, place, key, name), None, "it"))

    def test_inputs_never_become_outputs(self, packager: Packager, good: list[Manifest]) -> None:
        for manifest in good:
            for data in changes.crossed(manifest.data):
                attempt(packager, Manifest(data, None, "it"))

    def test_an_error_has_an_end(self, packager: Packager, good: list[Manifest]) -> None:
        for manifest in good:
            for place, _ in changes.maps(manifest.data):
                many = dict.fromkeys((f"{UNKNOWN}-{number}" for number in range(2000)), "x" * 500)
                data = copy.deepcopy(manifest.data)
                changes.at(data, place).update(many)
                attempt(packager, Manifest(data, None, "it"))

    def test_a_template_is_a_good_manifest_of_that_name(
        self, packager: Packager, good: list[Manifest], tmp_path: Path
    ) -> None:
        mine, project = tmp_path / "new" / "mlcube", tmp_path / "new" / "project"
        for folder in (mine, project):
            folder.mkdir(parents=True)
        for manifest in good:
            before = copy.deepcopy(manifest.data)
            wanted = packager.read(manifest)
            for name in ("Model 7", "ü", "x/../y", "n" * 128):
                data = packager.template(manifest.data, name)
                assert manifest.data == before, "making a template changed the manifest"
                assert packager.recognizes(data)
                spec = packager.read(Manifest(data, mine, "the template"))
                check_spec(spec, Manifest(data, mine, "the template"))
                assert spec.name == name
                assert volumes(spec) == volumes(wanted), "the template has other tasks or volumes"

    def test_files_are_those_that_are_there(self, packager: Packager, manifests: Manifests, tmp_path: Path) -> None:
        alone = tmp_path / "alone" / packager.file_names[0]
        alone.parent.mkdir()
        alone.write_text(str(manifests[0]))
        found = packager.files(alone)
        assert (found.manifest, found.parameters, found.additional_files) == (alone, None, None)
        for path in (each for each in manifests if isinstance(each, Path)):
            found = packager.files(path)
            assert found.manifest == path
            assert found.parameters is None or found.parameters.is_file()
            assert found.additional_files is None or any(found.additional_files.iterdir())


def attempt(packager: Packager, manifest: Manifest) -> ContainerSpec | None:
    """What is read of a manifest, checked; None if it is refused, which has to be done with words and an end."""
    try:
        spec = packager.read(manifest)
    except InvalidEntityError as error:
        length, clean = len(str(error)), not {"\x1b", "\0"} & set(str(error))
        assert error.problems, "the error lists no problem"
        assert length <= MAX_ERROR, f"the error has {length} characters"
        assert clean, "the error carries control characters"
        return None
    check_spec(spec, manifest)
    return spec


def check_spec(spec: ContainerSpec, manifest: Manifest) -> None:
    """What holds of every description, whatever the manifest says."""
    plain = json.dumps(to_data(spec))
    assert from_data(json.loads(plain), ContainerSpec) == spec, "it does not survive as plain data"
    _check_places(spec, manifest)
    for name, task in spec.tasks.items():
        assert name == task.name
        labels = [volume.label for volume in task.volumes]
        assert len(labels) == len(set(labels)), f"{name} has a label twice: {labels}"
        for volume in task.volumes:
            _check_volume(name, volume)
        for variable, value in task.environment.items():
            assert variable and "=" not in variable and "\0" not in variable + value, f"{variable!r} is no variable"


def _check_places(spec: ContainerSpec, manifest: Manifest) -> None:
    local = [source.location for source in spec.sources if source.kind is not SourceKind.REGISTRY]
    local += [spec.project] if spec.project else []
    allowed = [each.resolve() for each in (manifest.base and manifest.base.parent, manifest.project) if each]
    for location in local:
        path = Path(location)
        assert path.is_absolute(), f"{location} is not an absolute path"
        inside = any(path.resolve().is_relative_to(folder) for folder in allowed)
        assert inside, f"{location} is neither in the manifest's folder nor beside it"
    for source in spec.sources:
        assert source.location and not source.location.startswith("-") and source.location.isprintable()


def _check_volume(task: str, volume: VolumeSpec) -> None:
    rule = volume_rules(task).get(volume.offer)
    if rule is not None:
        assert volume.writable == rule.writable, f"{task}: {volume.label} turns the core's {volume.offer} around"
        assert volume.subpath or volume.kind is rule.kind, f"{task}: {volume.label} is no {rule.kind}"
    parts = volume.subpath.split("/") if volume.subpath else []
    assert not {"..", ""} & set(parts), f"{task}: {volume.label} leaves its place by {volume.subpath!r}"
    if volume.mount_path is not None:
        place = volume.mount_path
        assert place.startswith("/") and place == posixpath.normpath(place) and len(place) > 1, f"{place!r} is no place"
        assert place.isprintable() and not set(place) & set(",:"), f"{place!r} would say more to an engine than a path"


def with_keys(manifest: Manifest, keys: dict[changes.Place, str]) -> Manifest:
    """The manifest with more keys in the maps at these places."""
    data = manifest.data
    for place, key in keys.items():
        data = changes.replaced(data, (*place, key), "x")
    return attrs.evolve(manifest, data=data)


def volumes(spec: ContainerSpec) -> set[tuple[str, str, bool]]:
    """Tasks, labels and directions of all volumes."""
    return {(name, each.label, each.writable) for name, task in spec.tasks.items() for each in task.volumes}
