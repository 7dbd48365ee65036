"""Policies: what a site allows to run and to leave. Every plugin must allow; an error denies."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import attrs


class Action(StrEnum):
    """What is asked about."""

    PREPARE = "prepare"
    """An image is about to be fetched or built; subject: container, owner, benchmark, recorded images if any."""
    RUN = "run"
    """A container task is about to run; subject: task, images, container, owner, benchmark, waivers."""
    SEND = "send"
    """Bytes are about to leave the site; subject: action, target, server, body, benchmark."""


@attrs.frozen
class Decision:
    """A policy's answer. ``reason`` is shown to the person at the site."""

    allow: bool
    reason: str = ""


@attrs.frozen
class PolicySubject:
    """What an action is about.

    Attributes:
        what: one line for people, such as "task infer of model 4".
        owner: of the container: e-mail address (or name) of the logged-in user where it is theirs, ``user UID`` of
            the server where it is somebody else's, ``local`` for a container that lies in a folder here.
        benchmark: benchmark UID; None if there is none.
        images: identities as ``KIND:sha256:HEX``.
        details: more, by the action; plain data.
    """

    what: str
    owner: str | None = None
    benchmark: int | None = None
    images: tuple[str, ...] = ()
    details: Mapping[str, Any] = attrs.field(factory=dict)
