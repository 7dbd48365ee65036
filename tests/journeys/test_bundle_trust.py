"""Loaded bundles at each use: still trusted, of the profile's server, the newest of their maker, in a run's record."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from medperf_core.entities import Benchmark, Container, Dataset, TestReport
from medperf_core.errors import ConfigurationError, MedperfError, NotFoundError, OfflineError, VerificationError
from medperf_core.journeys.bundle import load_bundle
from medperf_core.journeys.compatibility import association_metadata, run_test
from medperf_core.plugin import Event
from medperf_core.plugin.events import Notice
from medperf_core.plugin.server import Party
from medperf_core.site.bundle_index import write_signature
from medperf_core.site.bundles import BundleStore, LoadedBundle, bundled_images
from medperf_core.site.cache_gc import collect
from medperf_core.site.home import Home
from medperf_core.site.keys import KeyStore, SiteKey
from medperf_core.site.profiles import ProfileStore

from .bundles import Island, island, made_at, maker, members, replaced, resigned, rewritten, unsigned
from .conftest import Tutorial

pytestmark = pytest.mark.usefixtures("no_network")
EARLY, LATE = "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"
UNSIGNED = ("unsigned", "no-isolation")
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def second(tmp_path: Path) -> SiteKey:
    """Another maker."""
    return KeyStore(Home.open(tmp_path / "second")).make()


def profiles(far: Island) -> ProfileStore:
    return ProfileStore(Home(far.home))


def trust(far: Island, *keys: str) -> None:
    profiles(far).update("island", {"trusted_keys": keys})


def ran(far: Island, **options: Any) -> tuple[TestReport, list[str]]:
    """A test on the island, and what was told."""
    told: list[Event] = []
    with far.site(**options) as site:
        site._on_event = told.append
        report = run_test(site, benchmark=1)
    return report, [event.message for event in told if isinstance(event, Notice)]


def loaded(far: Island) -> list[LoadedBundle]:
    return list(BundleStore(Home(far.home)).list("island"))


# --- who made it --------------------------------------------------------------------------------------------------


def test_a_key_that_is_trusted_no_longer(shared: Tutorial, bundle: Path, far: Island) -> None:
    far.load(bundle)
    report, told = ran(far)
    assert not any("not used" in text for text in told)
    (index,) = {step.bundle["bundle"] for step in report.steps}
    assert (index, {step.bundle["maker"] for step in report.steps}) == (loaded(far)[0].name, {maker(shared)})
    trust(far)
    told = []
    with far.site() as site:
        site._on_event = lambda event: told.append(str(event))
        with pytest.raises(ConfigurationError, match="no bundle that can be used"):
            run_test(site, benchmark=1)
        assert site.bundles == () == site.on_platform("process").bundles
    assert len([text for text in told if "does not trust its maker" in text and index[:12] in text]) == 1
    trust(far, maker(shared))
    assert ran(far)[0].results == report.results


def test_an_unsigned_one_is_waived_each_time_and_recorded(bundle: Path, far: Island, tmp_path: Path) -> None:
    far.load(bundle)
    signed, _ = ran(far)
    (name,) = [each.name for each in loaded(far)]
    with far.site() as site:
        BundleStore(site.home).remove("island", name)
    far.load(unsigned(bundle, tmp_path / "u.tar"), allow=("unsigned",))
    for allow in (("no-isolation",), ("no-isolation", "unsigned=archive:sha256:" + "0" * 64)):
        with pytest.raises(ConfigurationError, match="no bundle"):
            ran(far, allow=allow)
    report, _ = ran(far, allow=UNSIGNED)
    assert report.results == signed.results
    for step in report.steps:
        assert step.bundle["maker"] == "not signed" and "unsigned" in step.waivers and not step.reused
    assert association_metadata(report)["waivers"] == ["no-isolation", "unsigned"]
    assert all("unsigned" not in step.waivers for step in signed.steps)
    again, _ = ran(far, allow=UNSIGNED)
    assert all(step.reused and "unsigned" in step.waivers for step in again.steps)


def test_a_signature_of_the_bare_index_is_none(shared: Tutorial, bundle: Path, far: Island, tmp_path: Path) -> None:
    """As a key signs it that also signs other things than bundles."""
    with shared.site() as site:
        key = KeyStore(site.home).read()
    data = members(bundle)[1][1]
    for message in (data, b"medperf-bundle-v2\0" + data):
        signature = write_signature(key.public, key.sign(message))
        changed = rewritten(bundle, tmp_path / "b.tar", partial(replaced, number=0, data=signature))
        with pytest.raises(VerificationError, match="not what its maker signed"):
            far.load(changed)
    assert far.is_untouched


# --- of which server ----------------------------------------------------------------------------------------------


def test_a_profile_that_is_of_another_server_by_now(shared: Tutorial, bundle: Path, far: Island) -> None:
    far.load(bundle)
    profiles(far).update("island", {"server": "https://registry.example"})
    with far.site() as site:
        assert site.bundles == ()
        with pytest.raises(MedperfError):
            site.server.get(Benchmark, 1)
    profiles(far).update("island", {"server": ""})
    with far.site() as site:
        assert site.server.get(Benchmark, 1).uid == 1


def test_several_servers_and_none_named(shared: Tutorial, bundle: Path, far: Island, tmp_path: Path) -> None:
    far.load(bundle)
    other = "https://other.example"
    moved = resigned(shared, bundle, tmp_path / "o.tar", lambda index: index.update(server=other))
    profiles(far).update("island", {"server": other})
    far.load(moved)
    with far.site() as site:
        assert [each.index.server for each in site.bundles] == [other]
    profiles(far).update("island", {"server": ""})
    with far.site() as site, pytest.raises(ConfigurationError, match=r"several .*other\.example"):
        site.server.get(Benchmark, 1)


def test_a_deleted_profile_leaves_no_bundles(shared: Tutorial, bundle: Path, far: Island) -> None:
    far.load(bundle)
    profiles(far).delete("island")
    profiles(far).create("island", platform="process", trusted_keys=[maker(shared)])
    with far.site() as site:
        assert site.bundles == () and BundleStore(site.home).files() == frozenset()


# --- the newest ---------------------------------------------------------------------------------------------------


def further(index: dict[str, Any]) -> None:
    """One container more, as ``--model`` brings it."""
    copy = {**index["containers"][1], "id": 9, "name": "further"}
    index.update(containers=[*index["containers"], copy], created_at=EARLY)


def test_a_newer_one_takes_its_place_with_what_was_withdrawn(
    shared: Tutorial, bundle: Path, far: Island, tmp_path: Path
) -> None:
    old = resigned(shared, bundle, tmp_path / "old.tar", further)
    new = resigned(shared, bundle, tmp_path / "new.tar", made_at(LATE))
    far.load(old)
    with far.site() as site:
        assert site.server.get(Container, 9).name == "further"
        load_bundle(site, new)  # and the same site works from it
        with pytest.raises(NotFoundError):
            site.server.get(Container, 9)
    assert [each.index.created_at for each in loaded(far)] == [LATE]
    with pytest.raises(VerificationError, match=f"{EARLY}.*newer one.*{LATE}.*--allow older-bundle"):
        far.load(old)
    with pytest.raises(VerificationError, match="older-bundle"):
        far.load(old, allow=("older-bundle=archive:sha256:" + "0" * 64,))
    far.load(new)
    far.load(old, allow=("older-bundle",))
    assert [each.index.created_at for each in loaded(far)] == [EARLY]
    report, _ = ran(far)
    assert all("older-bundle" in step.waivers and step.bundle["made"] == EARLY for step in report.steps)
    far.load(old)
    assert [each.older for each in loaded(far)] == [True]
    far.load(new)
    assert [each.older for each in loaded(far)] == [False]
    assert len([path for path in (far.home / "bundles").rglob("*") if path.is_file()]) == 1


def test_what_a_kill_left_of_the_older_one_is_not_used(
    shared: Tutorial, bundle: Path, far: Island, tmp_path: Path
) -> None:
    far.load(resigned(shared, bundle, tmp_path / "old.tar", further))
    (old,) = (far.home / "bundles").rglob("*.json")
    text = old.read_bytes()
    far.load(resigned(shared, bundle, tmp_path / "new.tar", made_at(LATE)))
    old.write_bytes(text)
    with far.site() as site:
        assert [each.index.created_at for each in site.bundles] == [LATE]
        with pytest.raises(NotFoundError):
            site.server.get(Container, 9)


def test_a_time_that_has_not_come(shared: Tutorial, bundle: Path, far: Island, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    soon, later = ((now + timedelta(hours=hours)).isoformat(timespec="seconds") for hours in (20, 30))
    with pytest.raises(VerificationError, match="here it is"):
        far.load(resigned(shared, bundle, tmp_path / "later.tar", made_at(later)))
    assert far.is_untouched
    far.load(resigned(shared, bundle, tmp_path / "soon.tar", made_at(soon)))


def other_benchmark(moment: str, name: str) -> Change:
    def change(index: dict[str, Any]) -> None:
        index["benchmarks"][0]["id"] = 2
        index["containers"][0]["name"] = name
        index.update(benchmark=2, created_at=moment)

    return change


def test_of_what_one_maker_says_in_two_the_newest_holds(
    shared: Tutorial, bundle: Path, far: Island, tmp_path: Path
) -> None:
    far.load(resigned(shared, bundle, tmp_path / "one.tar", made_at(EARLY)))
    with far.site() as site:
        name = site.server.get(Container, 1).name
    far.load(resigned(shared, bundle, tmp_path / "two.tar", other_benchmark(LATE, "renamed")))
    with far.site() as site:
        assert site.server.get(Container, 1).name == "renamed"
        assert [each.uid for each in site.server.list(Benchmark)] == [1, 2]
        BundleStore(site.home).remove("island", loaded(far)[0].name)
    far.load(resigned(shared, bundle, tmp_path / "two.tar", other_benchmark("2026-01-01T00:00:00Z", "renamed")))
    with far.site() as site:
        assert site.server.get(Container, 1).name == name


def test_an_image_is_of_a_container_as_its_own_bundle_describes_it(
    shared: Tutorial, bundle: Path, far: Island, tmp_path: Path
) -> None:
    def with_image(index: dict[str, Any]) -> None:
        sha256 = index["entries"][0]["sha256"]
        index["images"] = [{"container": 1, "kind": "archive", "sha256": sha256, "identities": []}]

    far.load(resigned(shared, bundle, tmp_path / "one.tar", with_image))
    with far.site() as site:
        container = site.server.get(Container, 1)
        ((of, image, identity),) = bundled_images(site.bundles, container)
        assert of == site.bundles[0] and identity.digest == f"sha256:{image.sha256}"
        assert list(bundled_images(site.bundles, attrs.evolve(container, name="another"))) == []


# --- two makers ---------------------------------------------------------------------------------------------------


def renamed(index: dict[str, Any]) -> None:
    index["containers"][0]["name"] = "another"


def test_two_makers_who_say_the_same(shared: Tutorial, bundle: Path, second: SiteKey, far: Island) -> None:
    trust(far, maker(shared), second.fingerprint)
    far.load(bundle)
    far.load(resigned(shared, bundle, far.home.with_name("two.tar"), lambda index: None, second))
    assert len(loaded(far)) == 2
    assert ran(far)[0].results["cases"] == 30


def test_two_makers_who_say_different_things(
    shared: Tutorial, bundle: Path, second: SiteKey, far: Island, tmp_path: Path
) -> None:
    other = resigned(shared, bundle, tmp_path / "two.tar", renamed, second)
    both = f"(?s)container 1 is described differently by .*({maker(shared)}|{second.fingerprint})".replace("+", r"\+")
    trust(far, maker(shared), second.fingerprint)
    far.load(bundle)
    with pytest.raises(VerificationError, match=both) as caught:
        far.load(other)
    assert maker(shared) in str(caught.value) and second.fingerprint in str(caught.value)
    trust(far, second.fingerprint)
    far.load(other)  # the first is not used here now
    assert ran(far)[0].results["cases"] == 30
    trust(far, maker(shared), second.fingerprint)
    with pytest.raises(VerificationError, match=both) as caught:
        ran(far)
    assert maker(shared) in str(caught.value) and second.fingerprint in str(caught.value)
    with far.site() as site:
        BundleStore(site.home).remove("island", loaded(far)[0].name)
    assert ran(far)[0].results["cases"] == 30


# --- damaged, and missing -----------------------------------------------------------------------------------------


def test_a_damaged_index_stands_in_nobodys_way(shared: Tutorial, bundle: Path, far: Island, tmp_path: Path) -> None:
    far.load(bundle)
    far.load(resigned(shared, bundle, tmp_path / "two.tar", other_benchmark(LATE, "another")))
    store = BundleStore(Home(far.home))
    damaged = next(each for each in loaded(far) if each.index.benchmark == 1).name
    file = far.home / "bundles" / "island" / f"{damaged}.json"
    for content in (b"{}", b"", os.urandom(100)):
        file.write_bytes(content)
        assert [each.index.benchmark for each in store.list()] == [2]
        assert [each.name for each in store.damaged()] == [damaged]
        assert store.files()
        collect(Home(far.home), keep=0, pinned=store.files)
        with far.site() as site:
            assert site.server.get(Benchmark, 2).uid == 2
            with pytest.raises(NotFoundError):
                site.server.get(Benchmark, 1)
        far.load(bundle)
        assert store.damaged() == []
    file.write_bytes(json.dumps({"format": 1}).encode())
    assert store.remove("island", damaged[:8]).name == damaged
    assert [each.index.benchmark for each in store.list()] == [2] and store.damaged() == []


def test_what_bundles_do_not_carry_is_not_said_to_be_missing(bundle: Path, far: Island) -> None:
    far.load(bundle)
    with far.site() as site:
        assert [each.uid for each in site.server.list(Benchmark)] == [1]
        with pytest.raises(OfflineError, match="only the server knows the datasets"):
            list(site.server.list(Dataset))
        with pytest.raises(OfflineError, match="only the server knows the datasets"):
            site.server.get(Dataset, 1)
        with pytest.raises(OfflineError, match="only the server knows the associations"):
            site.server.associations(Party.MODEL)
        with pytest.raises(OfflineError, match="which containers are yours"):
            list(site.server.list(Container, mine=True))


def test_without_any_bundle_it_says_what_to_load(tmp_path: Path) -> None:
    with island(tmp_path).site() as site, pytest.raises(ConfigurationError, match="medperf bundle load FILE"):
        run_test(site, benchmark=1)
