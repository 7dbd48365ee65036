"""Which shared libraries a set of binaries loads, and where an image must keep them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

LIBRARY = re.compile(r"^\s+(\S+) => (/\S+) \(0x")
LOADER = re.compile(r"^\s+(/\S+) \(0x")
LIBC = re.compile(r"^libc\.(so\.6|musl-.*)$")
# The loader finds these without a cache file.
SEARCHED = re.compile(r"^/(usr/)?lib(32|64|x32)?/([^/]*-linux-[^/]*/)?[^/]+$")
# glibc opens it by name when a thread ends, so ldd never lists it.
OPENED_LATER = "libgcc_s.so.1"
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def needed_by(binaries: Iterable[Path]) -> dict[str, Path]:
    """Places in the image, without the leading slash, to the files on this machine."""
    command = ["ldd", *map(str, binaries)]
    listing = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT).stdout
    loaders = {Path(match[1]) for match in map(LOADER.match, listing.splitlines()) if match}
    libraries = {match[1]: Path(match[2]) for match in map(LIBRARY.match, listing.splitlines()) if match}
    libraries = {name: path for name, path in libraries.items() if "/" not in name}
    home = next((path.parent for name, path in libraries.items() if LIBC.match(name)), Path("/usr/lib"))
    later = home / OPENED_LATER
    if loaders and later.exists():
        libraries.setdefault(OPENED_LATER, later)
    places = {str(loader).lstrip("/"): loader for loader in loaders}
    for name, path in libraries.items():
        place = path if SEARCHED.match(str(path)) else home / name
        places[str(place).lstrip("/")] = path
    return places
