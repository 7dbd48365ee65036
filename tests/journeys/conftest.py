"""A tutorial of its own for each module: home, folder, embedded server, process runner."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from medperf_examples.tutorial import ADMIN, COMMITTEE, OWNER, start_tutorial

from medperf_core import ApproveAll, Approver, Site, SiteOptions
from medperf_core.plugin import Event
from tests.engines import require

if TYPE_CHECKING:
    from .bundles import Island


@attrs.frozen
class Tutorial:
    """A started tutorial and a way to open its sites."""

    home: Path
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model_mlp" / "mlcube"

    def site(
        self,
        profile: str = OWNER,
        approver: Approver | None = None,
        options: SiteOptions | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> AbstractContextManager[Site]:
        return Site.open(
            self.home, profile=profile, approver=approver or ApproveAll("test"), options=options, on_event=on_event
        )

    def committee(self) -> AbstractContextManager[Site]:
        return self.site(COMMITTEE)

    def admin(self) -> AbstractContextManager[Site]:
        return self.site(ADMIN)


def start(place: Path, platform: str = "process", base_image: str | None = None) -> Tutorial:
    """A tutorial below ``place``."""
    tutorial = Tutorial(place / "home", place / "medperf_tutorial")
    start_tutorial(
        tutorial.folder, platform=platform, base_image=base_image, home=tutorial.home, tell=lambda line: None
    )
    return tutorial


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tutorial]:
    """One tutorial for tests that do not change the server."""
    yield start(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def tutorial(tmp_path: Path) -> Tutorial:
    """A tutorial for one test."""
    return start(tmp_path)


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tutorial]:
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCKER_HOST", require("docker")["DOCKER_HOST"])
    yield start(tmp_path_factory.mktemp("docker"), platform="docker")
    patch.undo()


def variant(tutorial: Tutorial, container: str, first: str = "", *, swap: tuple[str, str] = ("", "")) -> Path:
    """A copy of a container whose program begins with other lines, or has others in the middle."""
    copy = tutorial.folder / f"{container}_variant"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(tutorial.folder / container, copy, ignore=shutil.ignore_patterns("__pycache__"))
    main = copy / "project" / "main.py"
    text = main.read_text()
    assert swap[0] in text
    head, future, rest = text.replace(*swap).partition("from __future__ import annotations\n")
    main.write_text(f"{head}{future}{first}\n{rest}")
    return copy


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection but to a socket of this machine's file system fails."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX, f"a connection to {address} was tried"
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(scope="module")
def bundle(shared: Tutorial) -> Iterator[Path]:
    """A signed bundle of the tutorial's benchmark."""
    from medperf_core.journeys.bundle import create_bundle
    from medperf_core.site.bundle_part import part_of
    from medperf_core.site.keys import KeyStore

    with shared.site() as site:
        KeyStore(site.home).make()
        made = create_bundle(site, benchmark=1, output=shared.folder.parent / "b.tar", platforms=["process"])
        assert made.kept == 0 and not part_of(made.path).exists()
    yield made.path


@pytest.fixture
def far(shared: Tutorial, bundle: Path, tmp_path: Path) -> Island:
    """A site that trusts the maker."""
    from .bundles import island, maker

    return island(tmp_path, maker(shared))
