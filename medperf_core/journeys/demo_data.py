"""A benchmark's demo dataset: a tarball with ``paths.yaml`` at its root, fetched, verified and unpacked."""

from __future__ import annotations

from pathlib import Path

import attrs

from medperf_core.errors import InvalidEntityError
from medperf_core.plugin.manifest import load_yaml
from medperf_core.site.fetch import Origin
from medperf_core.site.site import Site


@attrs.frozen
class DemoData:
    """Raw demo data and labels (or prepared ones, where the benchmark says so), and where they came from."""

    data: Path
    labels: Path
    metadata: Path | None
    source: dict[str, str]


def fetch_demo_data(site: Site, url: str, sha256: str | None, origin: Origin) -> DemoData:
    """Fetch and unpack a demo dataset.

    Raises:
        VerificationError: its hash is not the one given.
        InvalidEntityError: it is not a demo dataset, or its paths lead out of it.
    """
    fetched = site.fetch(url, origin=origin, sha256=sha256)
    root = site.cache.tree(fetched.sha256)
    source = {"url": fetched.url_redacted, "hash": fetched.sha256}
    paths_file = root / "paths.yaml"
    if not paths_file.is_file():
        raise InvalidEntityError(
            f"The demo dataset {fetched.url_redacted} has no paths.yaml at its root.",
            hint="It needs one with data_path and labels_path.",
        )
    paths = load_yaml(paths_file)
    if not isinstance(paths, dict):
        raise InvalidEntityError(f"paths.yaml of the demo dataset {fetched.url_redacted} must be a map.")
    return DemoData(
        data=_inside(root, paths, "data_path", fetched.url_redacted),
        labels=_inside(root, paths, "labels_path", fetched.url_redacted),
        metadata=_inside(root, paths, "metadata_path", fetched.url_redacted) if paths.get("metadata_path") else None,
        source=source,
    )


def _inside(root: Path, paths: dict[str, object], key: str, url: str) -> Path:
    value = paths.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidEntityError(f"paths.yaml of the demo dataset {url} does not say its {key}.")
    try:
        place = (root / value).resolve()
        is_folder = place.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a name too long, links in a circle
        raise InvalidEntityError(f"paths.yaml of the demo dataset {url}: {key} is not a path ({error}).") from error
    if not place.is_relative_to(root.resolve()):
        raise InvalidEntityError(f"paths.yaml of the demo dataset {url}: {key} leads out of it.")
    if not is_folder:
        raise InvalidEntityError(f"The demo dataset {url} has no folder {value}, which its paths.yaml names.")
    return place
