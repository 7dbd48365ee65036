"""For all tests of the checkout: in CI, where every engine is there, a test that skips is a test that failed.

But for the conformance kits' own skips: what a backend does not promise is no engine that is missing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from medperf_core.plugin.testing.promises import NotPromised

# a run in the background begins with SIGINT ignored, and would hand that on to the programs that tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)

# how long an example takes says nothing on a machine that does other things too
settings.register_profile("medperf", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("medperf")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # halves of characters, which hostile input has, cannot be sent from one process of the tests to another
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    passed_over = call.excinfo is not None and isinstance(call.excinfo.value, NotPromised)
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail") and not passed_over:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which CI does not accept: {reason}"
    return report
