"""Look at this site: home, disk, plugins, backends, server. Every check says what to do about what it finds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import attrs

from medperf_core.errors import MedperfError
from medperf_core.plugin.descriptors import RunnerPlugin
from medperf_core.plugin.doctor import Check, Health
from medperf_core.site.site import Site

LOW_ROOM = 5 << 30
"""Bytes of free disk below which images and data soon do not fit."""


def checks(site: Site) -> Iterator[Check]:
    """All checks, one after the other; none of them raises."""
    yield from _home(site)
    yield from _plugins(site)
    yield from _runners(site)
    yield from _server(site)
    yield from site.plugins.checks()


def _home(site: Site) -> Iterator[Check]:
    free = shutil.disk_usage(site.home.path).free
    low = free < LOW_ROOM
    yield Check(
        "home folder",
        Health.WARNING if low else Health.OK,
        f"{site.home.path}, {free / (1 << 30):.1f} GiB free",
        "Free some room, or use another home with MEDPERF_HOME." if low else "",
    )
    found = f"{site.profile_name}, platform {site.effective.platform}, server {site.profile.server or 'none'}"
    try:
        site.plugins.get(RunnerPlugin, site.effective.platform)
        yield Check("profile", Health.OK, found)
    except MedperfError as error:
        yield Check("profile", Health.FAILED, found, str(error))


def _plugins(site: Site) -> Iterator[Check]:
    for record in site.plugins.records():
        if record.status == "failed":
            yield Check(
                f"plugin {record.name}",
                Health.FAILED,
                record.reason,
                f"Reinstall or remove {record.distribution or 'it'}.",
            )
    try:
        site.plugins.require(site.profile.required_plugins)
    except MedperfError as error:
        yield Check("required plugins", Health.FAILED, error.message, error.hint or "")


def _runners(site: Site) -> Iterator[Check]:
    for descriptor in site.plugins.all(RunnerPlugin):
        chosen = site.effective.platform in (descriptor.name, *descriptor.aliases)
        try:
            runner = site.make_runner(descriptor)
            for check in runner.doctor():
                failed = check.health is Health.FAILED and not chosen
                yield attrs.evolve(check, health=Health.WARNING) if failed else check
        except MedperfError as error:
            yield Check(
                f"runner {descriptor.name}",
                Health.FAILED if chosen else Health.WARNING,
                error.message,
                error.hint or "",
            )


def _server(site: Site) -> Iterator[Check]:
    if not site.profile.server:
        yield Check(
            "server",
            Health.WARNING,
            "the profile names none",
            "Fully local tests work; for the rest: medperf profile set --server ADDRESS",
        )
        return
    try:
        user = site.server.me()
        yield Check("server", Health.OK, f"{site.profile.server}, logged in as {user.username}")
    except MedperfError as error:
        yield Check("server", Health.FAILED, error.message, error.hint or "Log in with: medperf auth login")
