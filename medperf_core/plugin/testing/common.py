"""What the kits of all seams share."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import NoReturn, TypeVar

import attrs
import pytest

from medperf_core.plugin.descriptors import Descriptor

T = TypeVar("T")
PATIENCE = 30.0
"""Seconds after which something that has to end is taken for hanging."""


def fill_in(contract: str, fixture: str, gives: str) -> NoReturn:
    """Fail the test of an author who did not fill in a fixture, and say which."""
    pytest.fail(f"A subclass of {contract} has to define the fixture {fixture!r}, which gives {gives}.", pytrace=False)


def check_descriptor(plugin: Descriptor, kind: type[Descriptor]) -> None:
    """A descriptor that users can select and that is written for this version of the seam."""
    assert isinstance(plugin, kind), f"the hook gives a {type(plugin).__name__}, not a {kind.__name__}"
    assert plugin.api == kind.API, f"it is written for API {plugin.api}; this medperf-core has {kind.API}"
    for name in (plugin.name, *plugin.aliases):
        assert re.fullmatch(r"[a-z][a-z0-9-]*", name), f"{name!r} cannot be typed as a name: a-z, 0-9 and - only"
    assert plugin.summary and "\n" not in plugin.summary, "the summary is one line for lists"
    assert attrs.has(plugin.settings), "the settings are an attrs class"
    plugin.settings()


def within(call: Callable[[], T], what: str) -> T:
    """What ``call`` gives or raises; a failure of the test if it does not end in ``PATIENCE``."""
    given: list[T] = []
    raised: list[BaseException] = []

    def work() -> None:
        try:
            given.append(call())
        except BaseException as error:  # handed to the test
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if raised:
        raise raised[0]
    if not given:
        pytest.fail(f"{what} did not end")
    return given[0]
