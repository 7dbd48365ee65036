"""Finds the engines: every module of this package that has a tuple ENGINES."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from .engine import Engine


@functools.cache
def engines() -> dict[str, Engine]:
    """All engines by name, in the order of their modules' names."""
    package = __package__ or "tests.engines"
    found: dict[str, Engine] = {}
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if info.name.startswith(("_", "test_")):
            continue
        module = importlib.import_module(f"{package}.{info.name}")
        for engine in getattr(module, "ENGINES", ()):
            if engine.name in found:
                raise ValueError(f"two engines are called {engine.name!r}")
            found[engine.name] = engine
    return found
