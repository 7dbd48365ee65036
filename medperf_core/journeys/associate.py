"""Ask that a model takes part in a benchmark, and answer such a request."""

from __future__ import annotations

from collections.abc import Callable

from medperf_core.entities import Approval, Association, Benchmark, Container, Model, State, TestReport
from medperf_core.errors import InvalidEntityError, UsageError
from medperf_core.journeys.compatibility import association_metadata, run_test
from medperf_core.plugin.server import Party
from medperf_core.site.site import Site


def associate(
    site: Site,
    *,
    benchmark: int,
    container: int | None = None,
    model: int | None = None,
    fresh: bool = False,
    show: Callable[[TestReport], None] | None = None,
) -> Association:
    """Run the compatibility test with a registered model, show its results, and ask for the association.

    Args:
        benchmark: benchmark UID.
        container: UID of the container that the model wraps, or
        model: the model's own UID.
        fresh: run every step of the test, even if it was done before on unchanged inputs.
        show: is given the test's report before anybody is asked.

    Raises:
        MedperfError: the test failed, the server refused, or the person said no.
    """
    asked = find_model(site, container=container, model=model)
    if asked.container is None:
        raise InvalidEntityError(f"Model {asked.uid} ({asked.name}) does not wrap a container; it cannot be tested.")
    earlier = _latest(site, Party.MODEL, asked.uid, benchmark)
    if earlier is not None and earlier.approval_status is not Approval.REJECTED:
        site.notice(
            f"Model {asked.uid} and benchmark {benchmark} have an association already "
            f"({earlier.approval_status}); nothing was sent."
        )
        return earlier
    _check_request(site, asked, benchmark)
    report = run_test(site, benchmark=benchmark, model=str(asked.container.uid), fresh=fresh)
    if show is not None:
        show(report)
    request = Association(
        benchmark=benchmark,
        model=asked.uid,
        approval_status=Approval.PENDING,
        metadata={"test_result": association_metadata(report)},
    )
    return _association(site.gate.create(request, benchmark=benchmark))


def _check_request(site: Site, model: Model, benchmark_uid: int) -> None:
    """Find what the server would refuse before a test that may take hours."""
    benchmark, me = site.server.get(Benchmark, benchmark_uid), site.server.me()
    problems = []
    if me.id not in (model.owner, benchmark.owner) and not me.is_admin:
        problems.append("neither the model nor the benchmark is yours")
    if model.state is not State.OPERATION:
        problems.append(f"the model is in {model.state}; only one in OPERATION can take part")
    if benchmark.approval_status is not Approval.APPROVED or benchmark.state is not State.OPERATION:
        problems.append(f"the benchmark is {benchmark.approval_status} and in {benchmark.state}")
    if problems:
        raise InvalidEntityError(
            f"Model {model.uid} ({model.name}) cannot ask to take part in benchmark {benchmark_uid}:", problems=problems
        )


def answer(
    site: Site,
    *,
    approve: bool,
    benchmark: int,
    container: int | None = None,
    model: int | None = None,
    dataset: int | None = None,
) -> Association:
    """Approve or reject the pending association of a model (by its container's or its own UID) or of a dataset."""
    verdict = Approval.APPROVED if approve else Approval.REJECTED
    party = Party.MODEL if dataset is None else Party.DATASET
    uid = dataset if dataset is not None else model if model is not None else find_model(site, container=container).uid
    latest = _latest(site, party, uid, benchmark)
    if latest is not None and latest.approval_status is verdict:
        site.notice(f"The association of {party} {uid} with benchmark {benchmark} is {verdict} already.")
    return _association(site.gate.answer(party, uid, benchmark, verdict))


def _latest(site: Site, party: Party, uid: int, benchmark: int) -> Association | None:
    pairs = site.server.associations(party, benchmark=benchmark)
    return next((pair for pair in reversed(pairs) if uid in (pair.model, pair.dataset)), None)


def find_model(site: Site, *, container: int | None = None, model: int | None = None) -> Model:
    """The model with this UID, or the one that wraps the container with that UID.

    Raises:
        NotFoundError: there is none.
        InvalidEntityError: the container is no model's.
    """
    if model is not None:
        return site.server.get(Model, model)
    if container is None:
        raise UsageError("Name the model by --mlcube (its container's UID) or --model.")
    found = site.server.get(Container, container)
    if "infer" not in found.tasks:
        raise InvalidEntityError(
            f"Container {container} ({found.name}) is not a model: it has no infer task.",
            hint="medperf mlcube ls shows what there is.",
        )
    return site.server.model_of(container)


def _association(thing: object) -> Association:
    if not isinstance(thing, Association):
        raise InvalidEntityError(f"The server answered with a {type(thing).__name__} instead of an association.")
    return thing
