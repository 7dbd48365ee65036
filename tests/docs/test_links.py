"""Every link between pages leads somewhere, and every page can be reached from the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .pages import DOCS, ROOT, anchors, headings, pages, prose

_LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
_ALLOWED_SITES = ("https://doi.org/", "https://keepachangelog.com/", "https://semver.org/")


def links(page: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "``", prose(page))
    return _LINK.findall(text)


def target(page: Path, link: str) -> tuple[Path, str]:
    path, _, anchor = link.partition("#")
    return ((page.parent / path).resolve() if path else page), anchor


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        if "://" in link:
            if not link.startswith(_ALLOWED_SITES):
                broken.append(f"{link} is outside of this repository")
            continue
        file, anchor = target(page, link)
        if not file.exists() or not file.is_relative_to(ROOT):
            broken.append(f"{link}: there is no such file")
        elif anchor and anchor not in anchors(file):
            broken.append(f"{link}: there is no such heading")
    assert not broken, "\n".join(broken)


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        waiting += [file for link in links(page) if "://" not in link for file, _ in [target(page, link)]]
    assert set(DOCS.rglob("*.md")) <= seen


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_a_page_has_one_title_and_no_heading_twice(page: Path) -> None:
    assert len(re.findall(r"^# ", prose(page), re.MULTILINE)) == 1
    assert len(headings(page)) == len(set(headings(page)))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_no_folder_of_a_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|root|home/\w+|tmp/\w+|var/tmp)/", page.read_text())
