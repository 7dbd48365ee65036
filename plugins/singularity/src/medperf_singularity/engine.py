"""The program: finding it, its version, and the one environment that every call of it gets."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from medperf_core.errors import ExecutionError

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext
    from medperf_singularity.plugin import SingularitySettings

APPTAINER, SINGULARITY = "apptainer", "singularity"
OLDEST = {APPTAINER: (1, 1), SINGULARITY: (3, 8)}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the engine looks for its helpers (mksquashfs, fusermount ...), whatever the caller's PATH is."""
_PASSED_ON = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
"""By which an unprivileged user's systemd is reached, which alone can give such a user control groups."""
_INSTALL = (
    "Install Apptainer 1.1 or newer (https://apptainer.org/docs/admin/latest/installation.html), or name the program "
    "by --singularity-program."
)
_ANSWER_SECONDS = 60


@attrs.frozen
class Engine:
    """An engine as it was found.

    Attributes:
        program: absolute path.
        name: ``apptainer``, or ``singularity`` for SingularityCE and SingularityPRO.
        version: the first numbers of its version, such as (1, 4, 5).
        text: the version as it tells it, such as ``1.4.5-2.el9``.
    """

    program: str
    name: str
    version: tuple[int, ...]
    text: str

    @property
    def words(self) -> str:
        """Name and version, for records."""
        return f"{self.name} {self.text}"

    def environment(self, context_tmp: Path, cache: Path) -> dict[str, str]:
        """All variables of every call: nothing of the caller's can add a mount, an image or an option.

        The engine's own cache, temporary files and settings stay below the site's folders; they are made here.

        Args:
            context_tmp: the site's folder for temporary files.
            cache: this plugin's folder in the site's cache.
        """
        folders = {
            "CACHEDIR": cache / "engine-cache",
            "TMPDIR": context_tmp / "singularity",
            "CONFIGDIR": cache / "engine-config",
        }
        for folder in folders.values():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        found |= {"PATH": PATH, "LANG": "C.UTF-8", "HOME": str(folders["CONFIGDIR"]), "TMPDIR": str(folders["TMPDIR"])}
        # Apptainer takes its older name's variables too, with a warning where both are set and differ.
        prefix = self.name.upper()
        return found | {f"{prefix}_{name}": str(folder) for name, folder in folders.items()}

    def context_environment(self, context: BackendContext) -> dict[str, str]:
        """``environment`` with the folders of a context."""
        return self.environment(context.temp_dir, plugin_cache(context))


def plugin_cache(context: BackendContext) -> Path:
    """This plugin's folder in the site's cache."""
    return context.cache_dir / "singularity"


def find_engine(settings: SingularitySettings) -> Engine:
    """The engine that the settings name, or the one that is installed.

    Raises:
        ExecutionError: there is none, it does not answer, or it is too old.
    """
    names = (settings.program,) if settings.program else (APPTAINER, SINGULARITY)
    program = next((path for name in names if (path := _locate(name))), None)
    if program is None:
        missing = f"The program {settings.program}" if settings.program else "Neither apptainer nor singularity"
        raise ExecutionError(f"{missing} is {'not ' if settings.program else ''}installed here.", hint=_INSTALL)
    engine = read_version(program, _ask(program))
    oldest = OLDEST[engine.name]
    if engine.version < oldest:
        raise ExecutionError(
            f"{program} is {engine.words}, which is too old; tasks need {'.'.join(map(str, oldest))} or newer.",
            hint=_INSTALL,
        )
    return engine


def _locate(name: str) -> str | None:
    found = shutil.which(name) or shutil.which(name, path=PATH)
    return str(Path(found).absolute()) if found else None


def _ask(program: str) -> str:
    try:
        answer = subprocess.run(
            [program, "--version"],
            env={"PATH": PATH, "LANG": "C.UTF-8"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExecutionError(f"{program} cannot be started: {error}.", hint=_INSTALL) from error
    if answer.returncode != 0:
        said = answer.stderr.decode("utf-8", "replace").strip()[-500:]
        raise ExecutionError(f"{program} does not work: {said or 'it said nothing'}.", hint=_INSTALL)
    return answer.stdout.decode("utf-8", "replace")


def read_version(program: str, told: str) -> Engine:
    """The engine that answered ``--version`` with these words.

    Raises:
        ExecutionError: they are no version of Apptainer or Singularity.
    """
    found = re.search(r"(apptainer|singularity)(?:-ce|-pro)?\s+(?:version\s+)?((\d+)\.(\d+)(?:\.(\d+))?\S*)", told)
    if not found:
        raise ExecutionError(f"{program} tells no version of Apptainer or Singularity: {told[:200]!r}.", hint=_INSTALL)
    version = tuple(int(part) for part in found.groups()[2:] if part is not None)
    return Engine(program, found[1], version, found[2][:80])


def architecture() -> str:
    """This machine's architecture as image indexes write it, such as ``amd64``."""
    machine = platform.machine().lower()
    return {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}.get(machine, machine)
