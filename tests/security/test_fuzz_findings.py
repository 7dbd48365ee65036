"""What fuzzing found, as small as it gets; each stays mended."""

from __future__ import annotations

from pathlib import Path

import pytest

from medperf_core.builtin._container_config_packager import ContainerConfigPackager
from medperf_core.builtin._mlcube_packager import MlcubePackager
from medperf_core.entities import Container
from medperf_core.entities.codec import from_data
from medperf_core.errors import ConfigurationError, InvalidEntityError
from medperf_core.plugin.manifest import parse_manifest
from medperf_core.site.home import Home
from medperf_core.site.profiles import ProfileStore

PLACES = ("circle", "circle/x", "x" * 250, "y/" + "x" * 240, "é" * 128)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A container's folder with links that lead in a circle."""
    for folder in (tmp_path, tmp_path / "workspace", tmp_path / "workspace" / ".image"):
        folder.mkdir(exist_ok=True)
        (folder / "circle").symlink_to("circle")
    return tmp_path


@pytest.mark.parametrize("key", ["build_context", "build_file", "tar_file"])
@pytest.mark.parametrize("place", PLACES)
def test_places_of_an_mlcube_that_cannot_exist(base: Path, key: str, place: str) -> None:
    text = (
        f"docker: {{image: a, {key}: {place}}}\ntasks: {{infer: {{parameters: {{inputs: {{data_path: {place}}}}}}}}}\n"
    )
    try:
        spec = MlcubePackager().read(parse_manifest(text.encode(), name="m", base=base))
    except InvalidEntityError:
        return
    assert all(place not in source.location for source in spec.sources)


def test_a_folder_of_images_that_is_a_circle(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / ".image").symlink_to(".image")
    text = b"docker: {image: a, tar_file: x.tar}\ntasks: {train: {}}\n"
    spec = MlcubePackager().read(parse_manifest(text, name="m", base=tmp_path))
    assert [source.location for source in spec.sources] == ["a"]


@pytest.mark.parametrize("place", [*PLACES, "z" * 1900])
def test_places_of_a_configuration_that_cannot_exist(base: Path, place: str) -> None:
    text = (
        f"container_type: DockerArchive\nimage: {place}\ntasks: {{train: {{}}}}\nprocess: {{project: {place[:900]}}}\n"
    )
    spec = ContainerConfigPackager().read(parse_manifest(text.encode(), name="m", base=base))
    assert spec.sources == () and spec.project is None


def test_keys_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(InvalidEntityError, match="not text"):
        from_data({"name": "c", 1: 2}, Container)
    home = Home.open(tmp_path / "home", environment={})
    home.config_file.write_text("profiles: {a: {1: 2, b: 3}}\n")
    with pytest.raises(ConfigurationError, match="not text"):
        ProfileStore(home).get()
