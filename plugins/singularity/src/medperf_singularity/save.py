"""Images written to files: the SIF of the store, verified once more while it is copied, with its configuration inside.

A SIF that was built of a folder does not say how it is run: the store knows it. In the file it becomes the data object
that the engine itself writes when it converts an OCI image.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import attrs

from medperf_core.errors import ExecutionError, VerificationError
from medperf_core.plugin import BackendContext, PreparedImage
from medperf_core.plugin.digest import CHUNK
from medperf_singularity import sif, store
from medperf_singularity.config import ImageConfig
from medperf_singularity.engine import PATH, Engine

_GENERIC_JSON = "6"
"""Number of that kind of data object in ``sif add``."""
_SECONDS = 600


def save(engine: Engine, context: BackendContext, prepared: PreparedImage, folder: Path) -> Path:
    """Copy the SIF of a prepared image; see ``Runner.save``.

    Raises:
        VerificationError: it was changed after it was prepared.
        ExecutionError: it is no longer there, or cannot be written.
    """
    record = store.present(context, prepared)
    target = folder / store.SIF
    try:
        _copy(context, prepared, record.sha256, target)
        if not _alike(sif.describe(target), record.config):
            _add_config(engine, record.config, target, folder / sif.OCI_CONFIG)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return target


def _copy(context: BackendContext, prepared: PreparedImage, expected: str, target: Path) -> None:
    digest = hashlib.sha256()
    try:
        with Path(prepared.reference).open("rb") as source, target.open("xb") as stream:
            while data := source.read(CHUNK):
                context.cancel.raise_if_cancelled()
                digest.update(data)
                stream.write(data)
    except OSError as error:
        raise _unwritten(target, error.strerror or str(error)) from error
    if digest.hexdigest() != expected:
        raise VerificationError(
            f"The image of {prepared.source} was changed while it was copied.", hint="Run the command again."
        )


def _alike(one: ImageConfig, other: ImageConfig) -> bool:
    """Whether both run the same; the architecture also stands elsewhere in a SIF."""
    return attrs.evolve(one, architecture="") == attrs.evolve(other, architecture="")


def _add_config(engine: Engine, config: ImageConfig, target: Path, file: Path) -> None:
    document = {
        "architecture": config.architecture,
        "config": {
            "Entrypoint": list(config.entrypoint),
            "Cmd": list(config.cmd),
            "Env": [f"{name}={value}" for name, value in config.env.items()],
            "WorkingDir": config.working_dir,
            "User": config.user,
        },
    }
    command = [
        engine.program, "sif", "add", "--datatype", _GENERIC_JSON, "--filename", sif.OCI_CONFIG, target.name, file.name
    ]  # fmt: skip
    try:
        file.write_text(json.dumps(document), encoding="utf-8")
        done = subprocess.run(
            command,
            env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/nonexistent"},
            cwd=target.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unwritten(target, str(error)) from error
    finally:
        file.unlink(missing_ok=True)
    if done.returncode != 0 or not _alike(sif.describe(target), config):
        said = done.stdout.decode("utf-8", "replace").strip()[-400:] or "it did not say why"
        raise ExecutionError(f"{engine.name} could not write how the image is run into {target}: {said}.")


def _unwritten(target: Path, why: str) -> ExecutionError:
    return ExecutionError(f"{target} cannot be written: {why}.", hint="Free some room on that disk, then try again.")
