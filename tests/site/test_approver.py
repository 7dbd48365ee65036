"""Who says yes or no."""

from __future__ import annotations

import attrs
import pytest

from medperf_core.site.approver import Answer, ApproveAll, Approver, DenyAll, ask


@attrs.frozen
class Plain:
    value: bool

    def approve(self, what: str, target: str, body: bytes) -> bool:
        return self.value


class Named(Plain):
    how = "person"


@pytest.mark.parametrize(
    ("approver", "answer"),
    [
        (DenyAll(), Answer(False, "nobody")),
        (ApproveAll(), Answer(True, "program")),
        (ApproveAll("--yes"), Answer(True, "--yes")),
        (Plain(True), Answer(True, "program")),
        (Named(False), Answer(False, "person")),
    ],
)
def test_answers(approver: Approver, answer: Answer) -> None:
    assert ask(approver, "create model: model m", "https://host", b"{}") == answer
