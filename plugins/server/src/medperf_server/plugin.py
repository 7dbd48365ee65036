"""Tells medperf-core of the ``embedded`` client. Light: SQLAlchemy is imported when a registry is first used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from medperf_core.plugin import ServerPlugin, hookimpl

if TYPE_CHECKING:
    from medperf_core.plugin import BackendContext, ServerClient


def make(address: str, settings: Any, context: BackendContext) -> ServerClient:
    """The client of the registry file that ``address`` names."""
    from medperf_server.embedded import EmbeddedClient

    return EmbeddedClient(address, context)


@hookimpl
def medperf_servers() -> Iterable[ServerPlugin]:
    yield ServerPlugin(
        name="embedded",
        summary="a registry in one file on this machine: embedded:PATH",
        api=1,
        schemes=("embedded",),
        make=make,
    )
