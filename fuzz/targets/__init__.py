"""The targets by name, each with the module that holds it: a run imports only what it needs."""

from __future__ import annotations

from importlib import import_module

from fuzz.target import Target

MODULES: dict[str, tuple[str, ...]] = {
    "manifests": ("yaml", "mlcube", "container-config", "server-manifest", "results", "demo-paths"),
    "archives": ("archive", "archive-entries", "saved-image", "saved-image-parts"),
    "registry": ("wire", "entities"),
    "addresses": ("address", "http-address", "image-reference"),
    "bundles": ("bundle-index", "bundle-signature", "bundle-file"),
    "words": ("words", "engine-words", "redact", "task-log"),
    "site_files": ("audit", "audit-tampered", "profiles", "profile-keys", "site-records"),
    "engine": ("docker-answers", "build-file"),
    "images": ("sif", "image-config", "recipe"),
}
NAMES = tuple(name for names in MODULES.values() for name in names)


def load(name: str) -> Target:
    """The target of this name."""
    module = next(module for module, names in MODULES.items() if name in names)
    targets: tuple[Target, ...] = import_module(f"fuzz.targets.{module}").TARGETS
    return next(target for target in targets if target.name == name)
