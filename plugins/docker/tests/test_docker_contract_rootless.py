"""Rootless engines pass what depends on the caller: as the account that they belong to, which is not root."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from tests.engines import require
from tests.plugin.testing.as_account import needs_root, run_as

ENGINES = {
    "docker-rootless": "MEDPERF_TEST_DOCKER_ROOTLESS",
    "podman-rootless": "MEDPERF_TEST_PODMAN_ROOTLESS",
}
TESTS = (
    "test_a_task_is_cancelled",
    "test_inputs_arrive_and_outputs_come_back[fixed]",
    "test_links_in_outputs_lead_nobody_out",
    "test_mounts_files_of_the_host_cannot_be_read",
    "test_mounts_the_root_file_system_cannot_be_written",
    "test_nothing_is_left_of_a_task[0]",
    "test_outputs_belong_to_the_caller",
    "test_privileges_cannot_be_gained",
    "test_privileges_never_root_on_the_host",
    "test_privileges_no_output_runs_as_root",
    "test_privileges_there_are_none",
    "test_read_only_inputs_cannot_be_changed",
    "test_the_contracts_filter_is_in_force",
)
"""Of the kit, what another caller could change, but for the limits, which have tests of their own on these engines.

The whole kit takes minutes on rootless Podman.
"""


@needs_root
@pytest.mark.parametrize("kind", ENGINES)
def test_the_account_of_a_rootless_engine_is_promised_the_same(kind: str) -> None:
    host = require(kind)[ENGINES[kind]]
    account = pwd.getpwuid(Path(host.removeprefix("unix://")).stat().st_uid)
    assert account.pw_uid != 0
    contract = Path(__file__).with_name("test_docker_contract.py")
    tests = [f"{contract}::TestDockerRunner::{name}" for name in TESTS]
    found = run_as(account, *tests, variables={"MEDPERF_TEST_DOCKER_HOST": host})
    assert (found.passed, found.skipped) == (set(TESTS), {})
