"""The real engines that the test suite uses: started by `make engines`, stopped by `make engines-stop`.

From the repository root, as root on Debian 12: `python -m tests.engines start|stop|status [NAME...]`.
A module of this package that holds a tuple `ENGINES` of `engine.Engine` objects adds engines; nothing else lists them.
Tests ask `require("postgres")` for one engine's addresses, or `load()` for those of all engines that answer.
"""

from __future__ import annotations

import os

from . import catalogue, state

__all__ = ["load", "require"]


def load() -> dict[str, str]:
    """The addresses of every engine that answers now; {} when none does."""
    values = state.read_env()
    found: dict[str, str] = {}
    for engine in catalogue.engines().values():
        own = engine.own(values)
        if own is not None and engine.running(own):
            found.update(own)
    return found


def require(name: str) -> dict[str, str]:
    """The addresses of the engine `name`; the calling test is skipped without it, and fails without it in CI."""
    known = catalogue.engines()
    if name not in known:
        raise ValueError(f"no engine is called {name!r}; there are: {', '.join(known)}")
    own = known[name].own(state.read_env())
    if own is None or not known[name].running(own):
        import pytest

        words = f"engine {name} is not running: run `make engines`"
        if os.environ.get("CI") == "true":
            pytest.fail(words)
        pytest.skip(words)
    return own
