"""One piece of work in a process of its own: ``python -m benchmarks.workers fetch URL FOLDER``, ``pack`` or ``unpack``.

Prints the most memory that it had, in MiB.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def fetch(url: str, folder: str) -> None:
    """Through the site's fetcher into a cache below the folder."""
    from medperf_storage.http import HttpStorage
    from medperf_storage.settings import HttpSettings

    from medperf_core.plugin import BackendContext
    from medperf_core.site.cache import Cache
    from medperf_core.site.fetch import Fetcher, Origin

    context = BackendContext(Path(folder), Path(folder))
    store = HttpStorage(HttpSettings(), context)
    Fetcher(Cache(Path(folder)), lambda scheme: store, context).fetch(url, origin=Origin.TYPED)


def pack(root: str, archive: str) -> None:
    """A folder into an archive."""
    from medperf_core.site.archive import pack_tree

    pack_tree(Path(root), Path(archive))


def unpack(archive: str, target: str) -> None:
    """An archive into a new folder."""
    from medperf_core.site.archive import unpack as unpack_archive

    unpack_archive(Path(archive), Path(target))


if __name__ == "__main__":
    {"fetch": fetch, "pack": pack, "unpack": unpack}[sys.argv[1]](*sys.argv[2:])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
