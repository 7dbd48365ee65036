"""Which folders of this machine hold patients' data, so that no command ever uploads one of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from medperf_core.errors import ConfigurationError, DeniedError
from medperf_core.site.atomic import write_atomically
from medperf_core.site.home import Home, locked


class DataFolders:
    """The folders that were used as data here; they are remembered for good."""

    def __init__(self, home: Home) -> None:
        self._file = home.records_dir / "data-folders.json"

    def remember(self, paths: Iterable[Path]) -> None:
        """Note folders (or files) that a task was given as data or labels."""
        with locked(self._file.with_suffix(".lock"), "the list of data folders"):
            known = self.known()
            new = {os.path.realpath(path) for path in paths} - set(known)
            if new:
                text = json.dumps(sorted({*known, *new}), indent=1, ensure_ascii=True)
                write_atomically(self._file, text + "\n", mode=0o600)

    def known(self) -> tuple[str, ...]:
        """Real paths of all of them.

        Raises:
            ConfigurationError: the list is damaged; nothing is uploaded then.
        """
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(str(error)) from error
        if not isinstance(found, list) or not all(isinstance(path, str) for path in found):
            raise self._damaged("it is no list of paths")
        return tuple(found)

    def refuse(self, paths: Iterable[Path], what: str) -> None:
        """Refuse paths that are, hold or lie in a folder of data.

        Args:
            what: such as "uploaded".

        Raises:
            DeniedError: names both.
        """
        known = [Path(path) for path in self.known()]
        for path in paths:
            real = Path(os.path.realpath(path))
            for data in known:
                if real.is_relative_to(data) or data.is_relative_to(real):
                    raise DeniedError(
                        f"{path} was not {what}: {data} was used as data here, and data never leave this site.",
                        hint="Keep containers and data in folders of their own.",
                    )

    def _damaged(self, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"The list of data folders {self._file} is damaged: {why}.",
            hint="Mend it (a JSON list of paths). Nothing is uploaded while this is so.",
        )
