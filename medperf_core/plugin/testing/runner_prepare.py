"""Tests of ``prepare``: what was recorded is what runs, and nothing else is kept."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path

import attrs
import pytest

from medperf_core.entities.codec import from_data, to_data
from medperf_core.entities.image import IdentityKind, ImageIdentity, ImageSource, SourceKind
from medperf_core.errors import MedperfError, VerificationError
from medperf_core.plugin import PreparedImage
from medperf_core.plugin.testing.runner_kit import RunnerKit

WRONG = "sha256:" + "0" * 64


class PrepareTests:
    """See the module."""

    def test_the_image_s_identities_are_reported_truly(self, kit: RunnerKit) -> None:
        """At least one; those that the kit can work out itself are the right ones."""
        reported = {identity.kind: identity for identity in kit.prepared.identities}
        known = kit.probe.known(kit.source)
        assert reported, "no identity was reported"
        assert {kind: reported[kind] for kind in reported if kind in known} == {
            kind: known[kind] for kind in reported if kind in known
        }
        assert reported.keys() & known.keys(), f"none of {sorted(reported)} can be compared with the kit's own"

    def test_what_is_run_is_not_named_by_a_tag(self, kit: RunnerKit) -> None:
        """The reference is a digest, or a file or folder of this machine."""
        reference = kit.prepared.reference
        assert re.search(r"[0-9a-f]{64}", reference) or Path(reference).is_absolute(), reference

    def test_the_recorded_image_is_accepted(self, kit: RunnerKit) -> None:
        """By all of its identities together and by each alone, and always in the same way."""
        identities = kit.prepared.identities
        for expected in (identities, *((identity,) for identity in identities)):
            again = kit.runner().prepare(kit.source, expected)
            assert again.reference == kit.prepared.reference
            assert set(expected) <= set(again.identities)

    def test_another_identity_is_refused(self, kit: RunnerKit) -> None:
        """Of any kind that can be compared, also beside a right one."""
        right = kit.prepared.identities
        for identity in right:
            wrong = ImageIdentity(identity.kind, WRONG)
            for expected in ((wrong,), (*(each for each in right if each != identity), wrong)):
                with pytest.raises(VerificationError):
                    kit.runner().prepare(kit.source, expected)

    def test_an_identity_that_cannot_be_compared_is_refused(self, kit: RunnerKit) -> None:
        """If no recorded identity is of a kind that the image here has, it is not known to be that image."""
        for kind in set(IdentityKind) - {identity.kind for identity in kit.prepared.identities}:
            with pytest.raises(VerificationError):
                kit.runner().prepare(kit.source, [ImageIdentity(kind, WRONG)])

    def test_nothing_of_a_refused_image_is_kept(self, kit: RunnerKit) -> None:
        """Neither in the runner's own folders nor, as far as the fixture ``traces`` sees it, in the engine."""
        expected = kit.prepared.identities
        _, source = kit.another("refused")
        cache = kit.folder / "cache"
        cache.mkdir()
        with pytest.raises(VerificationError):
            kit.runner(cache_dir=cache).prepare(source, expected)
        assert not [path for path in cache.rglob("*") if path.is_file()], "files of the refused image were kept"
        assert kit.left() == []

    def test_what_was_compared_is_what_runs(self, kit: RunnerKit) -> None:
        """An image runs as it was, or not at all, if its source is changed afterwards, or the runner's own copy is."""
        runner = kit.runner()
        _, source = kit.another("first")
        prepared = runner.prepare(source)
        _, other = kit.another("second")
        for place, by in ((source.location, other.location), (prepared.reference, kit.prepared.reference)):
            if not Path(place).is_absolute():
                continue  # the engine keeps it, by its digest
            _replace(Path(place), Path(by))
            request = kit.request("facts")
            with suppress(MedperfError):
                runner.run(prepared, request)
                assert '"mark": "first"' in (request.mount("out").path / "report.json").read_text()

    def test_only_prepared_images_are_run(self, kit: RunnerKit) -> None:
        """A name that is not the reference of a prepared image is refused with words."""
        for name in ("localhost/medperf-probe:tag", "--help", str(kit.folder / "nothing")):
            with pytest.raises(MedperfError):
                kit.runner().run(attrs.evolve(kit.prepared, reference=name), kit.request("facts"))

    def test_a_kind_of_image_that_is_not_supported_is_refused_with_words(self, kit: RunnerKit) -> None:
        """``supports`` and ``prepare`` agree."""
        runner = kit.runner()
        assert runner.supports(kit.source)
        for kind in SourceKind:
            source = ImageSource(kind, "/nowhere/to/be/found")
            if not runner.supports(source):
                with pytest.raises(MedperfError):
                    runner.prepare(source)

    def test_a_prepared_image_is_plain_data(self, kit: RunnerKit) -> None:
        """It goes to another machine and comes back equal."""
        assert from_data(to_data(kit.prepared), PreparedImage) == kit.prepared


def _replace(place: Path, by: Path) -> None:
    with suppress(FileNotFoundError):  # a runner may have removed what it found to be changed
        if place.is_dir():
            shutil.copytree(by, place, dirs_exist_ok=True)
        else:
            shutil.copyfile(by, place)
