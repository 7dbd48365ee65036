"""Tests of how a task ends before its time, and that nothing of it is left then."""

from __future__ import annotations

import pytest

from medperf_core.errors import CancelledError
from medperf_core.plugin import Limit
from medperf_core.plugin.testing.runner_kit import RunnerKit


class StopTests:
    """See the module."""

    @pytest.mark.parametrize("code", [0, 7])
    def test_nothing_is_left_of_a_task(self, kit: RunnerKit, code: int) -> None:
        """Neither of one that succeeded nor of one that failed."""
        kit.run("leave", str(code))
        assert kit.left() == []

    def test_a_task_is_cancelled(self, kit: RunnerKit) -> None:
        """Also one that ignores polite requests, with all of its processes."""
        request, prepared = kit.request("linger"), kit.prepared
        kit.heard.when_ready = kit.cancel.cancel
        with pytest.raises(CancelledError):
            kit.runner().run(prepared, request)
        assert kit.left() == []

    def test_a_cancelled_task_is_not_started(self, kit: RunnerKit) -> None:
        """If the token was set before."""
        request, prepared = kit.request("linger"), kit.prepared
        kit.cancel.cancel()
        with pytest.raises(CancelledError):
            kit.runner().run(prepared, request)
        assert not (request.mount("out").path / "mine").exists()
        assert kit.left() == []

    def test_time_is_limited(self, kit: RunnerKit) -> None:
        """In total, also for a task that ignores polite requests; all of its processes are ended."""
        kit.needs(Limit.TIME)
        outcome = kit.run("linger", time_limit=1.0).outcome
        assert outcome.timed_out
        assert outcome.exit_code != 0
        assert kit.left() == []
