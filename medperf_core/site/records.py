"""Local records: the reports of compatibility tests, one file each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import attrs

from medperf_core.entities import TestReport
from medperf_core.entities.codec import from_data, to_data
from medperf_core.errors import InvalidEntityError, NotFoundError, UsageError
from medperf_core.site.atomic import write_atomically
from medperf_core.site.home import Home

_UID = re.compile(r"[0-9a-f]{16}")


@attrs.frozen
class Listing:
    """What is on record.

    Attributes:
        reports: newest first.
        damaged: for each file that cannot be read, its name and why.
    """

    reports: tuple[TestReport, ...]
    damaged: dict[str, str]


class Records:
    """The records of a home."""

    def __init__(self, home: Home) -> None:
        self._folder = home.records_dir / "tests"

    def save(self, report: TestReport) -> Path:
        """Keep a report, in place of an earlier one of the same test, and return its file."""
        if not _UID.fullmatch(report.uid):
            raise InvalidEntityError(f"{report.uid!r} is not the UID of a test report.")
        self._folder.mkdir(mode=0o700, exist_ok=True)
        file = self._folder / f"{report.uid}.json"
        text = json.dumps(to_data(report), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        write_atomically(file, text + "\n", mode=0o600)
        return file

    def list(self) -> Listing:
        """All reports; a damaged file does not keep the others from being listed."""
        reports, damaged = [], {}
        for file in self._folder.glob("[!.]*.json"):
            try:
                reports.append(_read(file))
            except FileNotFoundError:
                continue
            except InvalidEntityError as error:
                damaged[file.name] = str(error)
        reports.sort(key=lambda report: (report.created_at, report.uid), reverse=True)
        return Listing(tuple(reports), damaged)

    def get(self, uid: str) -> TestReport:
        """A report by its UID or the first digits of it.

        Raises:
            NotFoundError: there is none; known ones are listed.
            UsageError: several begin like this.
            InvalidEntityError: its file is damaged.
        """
        known = sorted(file.stem for file in self._folder.glob("[!.]*.json"))
        found = [name for name in known if uid and name.startswith(uid)]
        if not found:
            raise NotFoundError(
                f"There is no test report {uid!r}.", hint=f"Known reports: {', '.join(known) or 'none'}."
            )
        if len(found) > 1 and uid not in found:
            raise UsageError(
                f"Several test reports begin with {uid!r}.", hint=f"Write more of the one you mean: {', '.join(found)}."
            )
        return _read(self._folder / f"{uid if uid in found else found[0]}.json")


def _read(file: Path) -> TestReport:
    try:
        report = from_data(json.loads(file.read_bytes()), TestReport, allow_unknown=True)
    except FileNotFoundError:
        raise
    except InvalidEntityError as error:
        raise InvalidEntityError(f"The record {file} is damaged:", problems=error.problems) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidEntityError(
            f"The record {file} is damaged: {error}.", hint="Remove it and run the test again."
        ) from None
    if report.uid != file.stem:
        raise InvalidEntityError(
            f"The record {file} is damaged: it is of the test {report.uid!r}.", hint="Remove it and run the test again."
        )
    return report
