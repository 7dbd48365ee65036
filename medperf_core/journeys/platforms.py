"""The compatibility test on several platforms, and whether the containers do the same on all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from medperf_core.entities import Benchmark, TestReport
from medperf_core.errors import CancelledError, CheckFailedError, DeniedError, MedperfError, UsageError
from medperf_core.journeys.compare import Tolerance, differences
from medperf_core.journeys.compatibility import run_test
from medperf_core.plugin.descriptors import RunnerPlugin
from medperf_core.plugin.isolation import check_isolation
from medperf_core.site.site import Site


@attrs.frozen
class PlatformComparison:
    """What one test came to on several platforms.

    Attributes:
        reports: of the platforms on which the test passed, by the platform's name, in the order that was asked for.
        failures: why it failed on the others, by the platform's name.
        differences: what is not the same on all platforms, a sentence each; empty if they agree.
    """

    reports: Mapping[str, TestReport]
    failures: Mapping[str, str]
    differences: tuple[str, ...]


def run_test_on(site: Site, platforms: Sequence[str], **test: Any) -> PlatformComparison:
    """Run the compatibility test on each platform in turn and compare what came out with the first's.

    Every platform is probed before anything runs on any, also for what it cannot guarantee. A platform on which the
    test fails does not keep it from running on the others.

    Args:
        site: whose profile, options and events hold for all platforms.
        platforms: names of runners, two at least.
        test: what ``run_test`` takes.

    Raises:
        UsageError: fewer than two platforms are named, or one twice, also by another name of it.
        IsolationError: a platform cannot keep tasks closed, and that is not waived.
        DeniedError: a policy says no.
        CheckFailedError: the test failed on all of them, for reasons that differ.
        MedperfError: a platform cannot be used here, or the test failed on all of them for this reason.
    """
    if len(platforms) < 2 or len({site.plugins.get(RunnerPlugin, name).name for name in platforms}) < len(platforms):
        raise UsageError(
            f"{', '.join(platforms) or 'Nothing'} cannot be compared.",
            hint="Name two different platforms at least, such as --platforms docker,singularity.",
        )
    waivers = site.effective.waivers
    for name in platforms:
        with site.on_platform(name) as other:  # a waiver for one image may still turn out to be for the one that runs
            check_isolation(other.capabilities, [each.image for each in waivers if each.image], waivers)
    reports: dict[str, TestReport] = {}
    failures: dict[str, MedperfError] = {}
    for name in platforms:
        site.notice(f"On {name}:")
        with site.on_platform(name) as other:
            try:
                reports[name] = run_test(other, **test)
            except (CancelledError, DeniedError, UsageError):
                raise
            except MedperfError as error:
                failures[name] = error
    if not reports:
        raise _failed_everywhere(failures)
    uid = test.get("benchmark")
    tolerance = Tolerance.of(site.server.get(Benchmark, uid) if uid is not None else None)
    found = [f"The test passed on {', '.join(reports)}, but not on {name}: {failures[name]}" for name in failures]
    first, *rest = reports
    found += [line for name in rest for line in _compared(first, name, reports, tolerance)]
    return PlatformComparison(reports, {name: str(error) for name, error in failures.items()}, tuple(found))


def _failed_everywhere(failures: Mapping[str, MedperfError]) -> MedperfError:
    first = next(iter(failures.values()))
    if len({str(error) for error in failures.values()}) == 1:
        return first
    lines = "".join(_entry(f"On {name}: {error}") for name, error in failures.items())
    return CheckFailedError(f"The test failed on {', '.join(failures)}:{lines}")


def _compared(first: str, second: str, reports: Mapping[str, TestReport], tolerance: Tolerance) -> Iterator[str]:
    one, other = reports[first], reports[second]
    if one.prepared_hash != other.prepared_hash:
        yield (
            f"prepared data: {one.prepared_hash} on {first}, {other.prepared_hash} on {second}; "
            "a dataset would be another one on each."
        )
    for what, here, there in (
        ("statistics", one.statistics, other.statistics),
        ("results", one.results, other.results),
    ):
        for line in differences(here, there, tolerance, where=(f"on {first}", f"on {second}")):
            yield f"{what}: {line}"


def require_same(comparison: PlatformComparison) -> None:
    """Raise if the platforms do not agree.

    Raises:
        CheckFailedError: says in what they differ.
    """
    if comparison.differences:
        lines = "".join(map(_entry, comparison.differences))
        mend = "it runs on all" if comparison.failures else "all agree, or have the benchmark grant a tolerance"
        raise CheckFailedError(
            f"The platforms {', '.join((*comparison.reports, *comparison.failures))} do not come to the same:{lines}",
            hint=f"Mend the container until {mend}: other sites have other engines.",
        )


def _entry(text: str) -> str:
    return "\n  - " + text.replace("\n", "\n    ")
