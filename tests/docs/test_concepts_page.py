"""The tables of the page of concepts are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from medperf_core import Site
from medperf_core.entities.image import IdentityKind
from medperf_core.plugin.isolation import _GUARANTEE_WAIVERS, _LIMIT_WAIVERS, WAIVERS, Guarantee
from medperf_core.plugin.manager import HOOKS, PluginManager
from medperf_core.site.audit import Event
from medperf_core.site.fetch import Origin

from .pages import DOCS, prose, rows

PAGE = DOCS / "concepts.md"


def test_every_guarantee_and_limit_has_its_waiver() -> None:
    assert {row[0]: row[2] for row in rows(PAGE, "guarantee")} == {
        str(key): name for key, name in _GUARANTEE_WAIVERS.items()
    }
    assert {row[0] for row in rows(PAGE, "guarantee")} == set(Guarantee)
    assert {row[0]: row[2] for row in rows(PAGE, "limit")} == {str(key): name for key, name in _LIMIT_WAIVERS.items()}


def test_every_name_that_can_be_allowed_is_on_the_page() -> None:
    text = prose(PAGE)
    assert all(f"`{name}`" in text for name in WAIVERS)


def test_every_kind_of_identity_origin_and_event_is_listed() -> None:
    assert [row[0] for row in rows(PAGE, "kind")] == list(IdentityKind)
    assert {row[0] for row in rows(PAGE, "event")} == set(Event)
    words = {
        "typed here": Origin.TYPED,
        "from an embedded server": Origin.EMBEDDED,
        "from a remote server": Origin.REMOTE,
        "from a manifest": Origin.MANIFEST,
    }
    table = {words[row[0]]: row[1] == "yes" for row in rows(PAGE, "origin")}
    assert table == {origin: origin.allow_local for origin in Origin}


def test_the_seams_and_what_is_behind_them_today() -> None:
    ours = [item for item in PluginManager.discover().records() if item.distribution.startswith("medperf-")]
    provided = {word for item in ours for word in item.provides if not word.startswith("hook ")}
    table = rows(PAGE, "seam")
    listed = {
        f"{row[0].removesuffix(' client')} {name}"
        for row in table
        for name in re.findall(r"`([^`]+)`", row[3] + "``") or [row[3]]
    }
    assert listed == provided
    assert len(table) == len(HOOKS)


def test_the_home_folder_holds_what_the_page_says(tmp_path: Path) -> None:
    with Site.open(tmp_path / "home", environment={}) as site:
        site.profiles.create("another")
        found = {f"{item.name}/" if item.is_dir() else item.name for item in site.home.path.iterdir()}
    documented = {name for row in rows(PAGE, "in it") for name in re.findall(r"[a-z.]+/?", row[0])}
    assert found | {"backups/", "keys/", "bundles/"} == documented
