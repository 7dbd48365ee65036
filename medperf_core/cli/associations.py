"""What commands say about associations."""

from __future__ import annotations

from medperf_core.cli.output import next_step, note
from medperf_core.entities import Approval, Association


def party(item: Association) -> str:
    """Who takes part, in words."""
    return f"model {item.model}" if item.model is not None else f"dataset {item.dataset}"


def say_asked(item: Association) -> None:
    """After a request was sent."""
    if item.approval_status is Approval.APPROVED:
        note(f"The {party(item)} takes part in benchmark {item.benchmark}: the benchmark approved it by itself.")
        return
    note(f"Asked that {party(item)} takes part in benchmark {item.benchmark}; its owner has to answer.")
    next_step("medperf association ls")


def say_answered(item: Association) -> None:
    """After a request was answered."""
    answer = item.approval_status.value.lower()
    note(f"The association of {party(item)} with benchmark {item.benchmark} is {answer}.")
