"""Ask that a model takes part in a benchmark, and answer such a request."""

from __future__ import annotations

from collections.abc import Callable

from medperf_core.entities import Approval, Association, Container, Model, TestReport
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
    if dataset is not None:
        return _association(site.gate.answer(Party.DATASET, dataset, benchmark, verdict))
    uid = model if model is not None else find_model(site, container=container).uid
    return _association(site.gate.answer(Party.MODEL, uid, benchmark, verdict))


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
