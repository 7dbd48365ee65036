"""One piece of work in a process of its own: ``python -m benchmarks.workers fetch URL SHA256 FOLDER`` and so on.

Prints the seconds that it took, without starting and loading, and the most memory that the process had, in MiB.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medperf_core import Site


def fetch(url: str, sha256: str, folder: str) -> Callable[[], object]:
    """A file into the cache of a site that lies in the folder."""
    from medperf_core.site.fetch import Origin

    site = _site(url, folder)
    return lambda: site.fetch(url, origin=Origin.TYPED, sha256=sha256)


def down(prefix: str, files: str, folder: str) -> Callable[[], object]:
    """What ``up`` uploaded, into the cache of a site that lies in the folder."""
    from medperf_core.plugin.digest import file_digest
    from medperf_core.site.fetch import Origin, Wanted

    site, root = _site(prefix, folder), Path(files)
    wanted = [Wanted(f"{prefix}/{path.relative_to(root)}", file_digest(path)) for path in _files(root)]
    return lambda: site.fetch_all(wanted, origin=Origin.TYPED)


def up(files: str, prefix: str, folder: str) -> Callable[[], object]:
    """All files of a folder to below an address, by the uploads of a site that lies in the other folder."""
    from medperf_core.plugin.digest import file_digest
    from medperf_core.plugin.storage import PutRequest
    from medperf_core.site.uploads import Outgoing

    site, root = _site(prefix, folder), Path(files)
    requests = [
        PutRequest(f"{prefix}/{path.relative_to(root)}", path, path.stat().st_size, file_digest(path))
        for path in _files(root)
    ]
    store = site.storage(prefix.partition(":")[0])
    return lambda: site.uploads.upload(store, prefix, [Outgoing(r.path.name, str(r.path), r) for r in requests])


def pack(root: str, archive: str) -> Callable[[], object]:
    """A folder into an archive."""
    from medperf_core.site.archive import pack_tree

    return lambda: pack_tree(Path(root), Path(archive))


def unpack(archive: str, target: str) -> Callable[[], object]:
    """An archive into a new folder."""
    from medperf_core.site.archive import unpack as unpack_archive

    return lambda: unpack_archive(Path(archive), Path(target))


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def _site(address: str, folder: str) -> Site:
    from medperf_core import ApproveAll, Site

    site = Site.open(Path(folder), approver=ApproveAll("benchmark"))
    site.storage(address.partition(":")[0])  # loads what it needs
    return site


if __name__ == "__main__":
    works: dict[str, Callable[..., Callable[[], object]]] = {
        "fetch": fetch,
        "down": down,
        "up": up,
        "pack": pack,
        "unpack": unpack,
    }
    work = works[sys.argv[1]](*sys.argv[2:])
    started = time.perf_counter()
    work()
    print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
