"""One piece of work in a process of its own: ``python -m benchmarks.workers fetch URL FOLDER``, ``pack`` or ``unpack``.

Prints the seconds that it took, without starting and loading, and the most memory that the process had, in MiB.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path


def fetch(url: str, folder: str) -> Callable[[], object]:
    """Through the site's fetcher into a cache below the folder."""
    from medperf_storage.http import HttpStorage
    from medperf_storage.settings import HttpSettings

    from medperf_core.plugin import BackendContext
    from medperf_core.site.cache import Cache
    from medperf_core.site.fetch import Fetcher, Origin

    context = BackendContext(Path(folder), Path(folder))
    store = HttpStorage(HttpSettings(), context)
    fetcher = Fetcher(Cache(Path(folder)), lambda scheme: store, context)
    return lambda: fetcher.fetch(url, origin=Origin.TYPED)


def pack(root: str, archive: str) -> Callable[[], object]:
    """A folder into an archive."""
    from medperf_core.site.archive import pack_tree

    return lambda: pack_tree(Path(root), Path(archive))


def unpack(archive: str, target: str) -> Callable[[], object]:
    """An archive into a new folder."""
    from medperf_core.site.archive import unpack as unpack_archive

    return lambda: unpack_archive(Path(archive), Path(target))


if __name__ == "__main__":
    work = {"fetch": fetch, "pack": pack, "unpack": unpack}[sys.argv[1]](*sys.argv[2:])
    started = time.perf_counter()
    work()
    print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
