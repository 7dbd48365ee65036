"""A base image made from this machine's own Python, for places that reach no image registry.

`python -m medperf_examples.base_image TAG` imports it through the docker command line, which
honours DOCKER_HOST, unless an image with that tag is there already.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from medperf_core.plugin.testing import root_fs

PATH = "/usr/local/bin:/usr/bin:/bin"


def write(target: Path | BinaryIO) -> None:
    """Write the root file system as a tar that `docker import` accepts."""
    if isinstance(target, Path):
        with target.open("wb") as stream:
            root_fs.write(stream)
    else:
        root_fs.write(target)


def save(target: Path) -> None:
    """Write the image as a file, as `docker save` does; no engine is needed."""
    from medperf_core.plugin.testing.saved_image import configuration, layer_digest
    from medperf_core.plugin.testing.saved_image import save as save_image

    layer = target.with_suffix(".layer")
    try:
        write(layer)
        digest = layer_digest(layer)
        config = configuration([digest], {"Env": [f"PATH={PATH}"], "Cmd": ["python3"]})
        save_image(target, config, [(layer, digest)], "localhost/medperf-examples/python-base:local")
    finally:
        layer.unlink(missing_ok=True)


def exists(tag: str) -> bool:
    """Whether the engine has an image with this tag."""
    found = subprocess.run([_docker(), "image", "inspect", tag], capture_output=True, check=False)
    return found.returncode == 0


def import_image(tag: str) -> None:
    """Hand the root file system to the engine under `tag`."""
    command = [_docker(), "import", "-c", f"ENV PATH={PATH}", "-c", 'CMD ["python3"]', "-", tag]
    with tempfile.TemporaryFile() as archive:
        root_fs.write(archive)
        archive.seek(0)
        engine = subprocess.run(command, stdin=archive, capture_output=True, text=True, check=False)
    if engine.returncode:
        raise RuntimeError(f"docker import failed: {engine.stderr.strip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make sure that the image exists and print its tag."""
    parser = argparse.ArgumentParser(prog="python -m medperf_examples.base_image", description=__doc__)
    parser.add_argument("tag", help="for example local/python:base")
    tag: str = parser.parse_args(arguments).tag
    try:
        if not exists(tag):
            import_image(tag)
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(tag)
    return 0


def _docker() -> str:
    found = shutil.which("docker")
    if found is None:
        raise RuntimeError("there is no docker command on this machine")
    return found


if __name__ == "__main__":
    sys.exit(main())
