"""What the kit of server clients puts on a fresh server: one benchmark and those who want to take part in it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from medperf_core.entities import Approval, Association, Benchmark, Dataset, Entity, Model, Result, State
from medperf_core.plugin.server import Party, ServerClient, Submission
from medperf_core.plugin.testing import drafts

E = TypeVar("E", bound=Entity)
T = TypeVar("T", bound="Entity | Association")


class Person(StrEnum):
    """Who uses the server; the values are their user names."""

    ADMIN = "admin"
    COMMITTEE = "bo"
    """Owns the benchmark."""
    MODEL_OWNER = "mo"
    DATA_OWNER = "do"


Clients = Callable[[Person | None], ServerClient]
"""A client of the test's server in which this person is logged in; with None, nobody is."""


class World:
    """An approved operational benchmark with its parts, of the committee; a model and a dataset of their owners.

    Attributes:
        admin, bo, mo, do: clients of the administrator, the committee, the model owner and the data owner.
        preparator, evaluator, reference, lungs: the committee's containers, model and benchmark.
        unet, hospital: the model owner's model and the data owner's dataset.
    """

    def __init__(self, admin: ServerClient, bo: ServerClient, mo: ServerClient, do: ServerClient) -> None:
        self.admin, self.bo, self.mo, self.do = admin, bo, mo, do
        self.preparator = _made(bo, drafts.container("preparator", state=State.OPERATION))
        self.evaluator = _made(bo, drafts.container("evaluator", state=State.OPERATION))
        self.reference = _made(bo, drafts.model("reference", state=State.OPERATION))
        lungs = _made(bo, drafts.benchmark("lungs", self.preparator.uid, self.evaluator.uid, self.reference.uid))
        approved = admin.draft_update(Benchmark, lungs.uid, {"approval_status": Approval.APPROVED})
        self.lungs = sent(admin, approved, Benchmark)
        self.unet: Model = _made(mo, drafts.model("unet", state=State.OPERATION))
        hospital = _made(do, drafts.dataset("hospital", self.preparator.uid))
        final = do.draft_update(Dataset, hospital.uid, {"state": State.OPERATION})
        self.hospital = sent(do, final, Dataset)

    def side(self, party: Party) -> tuple[int, ServerClient]:
        """The UID of the model or dataset, and its owner's client."""
        return (self.unet.uid, self.mo) if party is Party.MODEL else (self.hospital.uid, self.do)

    def asking(self, party: Party) -> Association:
        """The model's or dataset's request to take part."""
        uid, _ = self.side(party)
        metadata = drafts.metadata(test_result={"auc": 0.8})
        if party is Party.MODEL:
            return Association(benchmark=self.lungs.uid, model=uid, metadata=metadata)
        return Association(benchmark=self.lungs.uid, dataset=uid, metadata=metadata)

    def associate(self) -> None:
        """Have the model and the dataset take part."""
        for party in Party:
            uid, owner = self.side(party)
            owner.send(owner.draft_create(self.asking(party)))
            self.bo.send(self.bo.draft_answer(party, uid, self.lungs.uid, Approval.APPROVED))

    def result(self, name: str) -> Result:
        """A new result of the model on the dataset."""
        return Result(
            name=name,
            benchmark=self.lungs.uid,
            model=self.unet.uid,
            dataset=self.hospital.uid,
            model_report={"odd": drafts.ODD},
            metadata=drafts.metadata(),
            user_metadata={"odd": drafts.ODD},
        )


def _made(client: ServerClient, draft: E) -> E:
    return sent(client, client.draft_create(draft), type(draft))


def sent(client: ServerClient, submission: Submission, kind: type[T]) -> T:
    """What the server made of a submission, which has to be of this kind."""
    made = client.send(submission)
    assert isinstance(made, kind), f"the answer is a {type(made).__name__}, not a {kind.__name__}"
    assert made.id, "the answer has no server UID"
    return made
