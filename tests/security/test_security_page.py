"""docs/security.md promises nothing that no test holds."""

from __future__ import annotations

import re

import pytest

from .named_tests import ROOT, exists

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`((?:tests|plugins|examples)/[\w/]+\.py::\w+)`", PAGE)


@pytest.mark.parametrize("test", sorted(set(NAMED)))
def test_each_named_test_exists(test: str) -> None:
    assert exists(test)


def test_every_promise_names_a_test() -> None:
    promises = PAGE.split("## Promises and their tests")[1].split("\n## ")[0]
    items = re.findall(r"(?ms)^\* .*?(?=^\* |^#|^$)", promises)
    assert len(items) > 20
    assert not [item for item in items if not set(re.findall(r"`([^`]+::[^`]+)`", item)) & set(NAMED)]


def test_every_test_path_on_the_page_is_understood() -> None:
    assert len(re.findall(r"`[^`]*::[^`]*`", PAGE)) == len(NAMED)
