"""What ``medperf doctor`` shows of Apptainer or Singularity."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from medperf_core.errors import MedperfError
from medperf_core.plugin import BackendContext, Check, Guarantee, Health, Limit
from medperf_singularity import parts, probe
from medperf_singularity.engine import PATH, Engine, find_engine, plugin_cache
from medperf_singularity.probe_data import Ability

if TYPE_CHECKING:
    from medperf_singularity.plugin import SingularitySettings

LITTLE_ROOM = 20 << 30
"""Bytes; an image and its conversion together need up to three times its size."""


def checks(settings: SingularitySettings, context: BackendContext) -> Iterator[Check]:
    """The engine from its version to the room for images."""
    try:
        engine = find_engine(settings)
    except MedperfError as error:
        yield Check("singularity engine", Health.FAILED, error.message, error.hint or "")
        return
    suid = parts.build_settings(engine).get("SUID_INSTALL") == "1"
    kind = "set-user-ID installation" if suid else "unprivileged installation"
    yield Check("singularity engine", Health.OK, f"{engine.words} at {engine.program}, {kind}")
    yield user_namespaces()
    yield fakeroot()
    yield image_files(suid)
    try:
        ability = probe.ability(engine, settings, context)
    except MedperfError as error:
        yield Check("singularity containers", Health.FAILED, error.message, error.hint or "")
    else:
        yield from _isolation(engine, ability)
        yield _limits(ability)
    yield Check("singularity gpus", Health.OK, "NVIDIA" if probe.has_gpus() else "none found")
    yield from _rooms(context)


def user_namespaces(system: Path = Path("/proc/sys")) -> Check:
    """Whether unprivileged users may make user namespaces, without which they cannot start containers."""
    name = "singularity user namespaces"
    for path, shut, advice in (
        ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=15000"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "This is in order where Apptainer's package has brought its AppArmor profile; if containers do not start: "
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ):
        try:
            value = (system / path).read_text().strip()
        except OSError:
            continue
        if value == shut:
            return Check(name, Health.WARNING, f"{path.replace('/', '.')} is {value}", f"As root: {advice}")
    return Check(name, Health.OK, "allowed")


def fakeroot(folder: Path = Path("/etc")) -> Check:
    """Whether this account has the subordinate IDs by which images can be built without root."""
    name = "singularity fakeroot"
    if os.geteuid() == 0:
        return Check(name, Health.OK, "not needed by root")
    try:
        account = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # an account without a name, as some clusters and containers have
        account = str(os.geteuid())
    missing = [file for file in ("subuid", "subgid") if not _has_range(folder / file, account)]
    if not missing:
        return Check(name, Health.OK, "subordinate IDs are there")
    return Check(
        name,
        Health.WARNING,
        f"{account} has no range in {' and '.join(str(folder / file) for file in missing)}: images with RUN steps "
        "cannot be built",
        f"As root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {account} (with a range that "
        "nobody else has). Tasks run without it.",
    )


def _has_range(file: Path, account: str) -> bool:
    try:
        lines = file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(line.split(":")[0] in (account, str(os.geteuid())) for line in lines)


def image_files(suid: bool) -> Check:
    """Whether SIF files can be mounted; otherwise each start unpacks the whole image."""
    name = "singularity image files"
    if os.geteuid() == 0 or suid:
        return Check(name, Health.OK, "mounted by the kernel")
    program = next((name for name in ("squashfuse_ll", "squashfuse") if shutil.which(name, path=PATH)), None)
    if program is None:
        return Check(name, Health.WARNING, "squashfuse is missing: each start unpacks the image", "Install squashfuse.")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        advice = "As root: chmod 0666 /dev/fuse"
        return Check(name, Health.WARNING, "/dev/fuse cannot be opened: each start unpacks the image", advice)
    return Check(name, Health.OK, f"mounted by {program}")


def _isolation(engine: Engine, ability: Ability) -> Iterator[Check]:
    problems = "; ".join(words for _, words in ability.problems)
    for need, good, advice in (
        (
            Guarantee.NETWORK,
            "no network but its own loopback",
            f"Have {engine.name}'s `--net --network none` allowed (user namespaces, or a set-user-ID installation); "
            "without it tasks need --allow no-network-isolation.",
        ),
        (
            Guarantee.PRIVILEGES,
            "no capabilities, no new privileges, system calls filtered",
            f"Use a build of {engine.name} with seccomp, and a run_as that is not root; without them tasks need "
            "--allow more-privileges.",
        ),
        (Guarantee.MOUNTS, "no files of this machine, root file system read-only", "Tell the engine's administrator."),
        (Guarantee.READ_ONLY_INPUTS, "inputs cannot be written", "Tell the engine's administrator."),
    ):
        if need in ability.guarantees:
            yield Check(f"singularity {need.value}", Health.OK, good)
        else:
            yield Check(f"singularity {need.value}", Health.WARNING, f"not guaranteed here: {problems}", advice)


def _limits(ability: Ability) -> Check:
    name = "singularity limits"
    if ability.limits >= {Limit.MEMORY, Limit.CPU, Limit.PROCESSES}:
        return Check(name, Health.OK, "memory, processes and CPUs are held by control groups")
    return Check(
        name,
        Health.OK,
        "memory, processes and CPUs are watched and kept by medperf",
        "Control groups hold them for root, and for users on control groups v2 with systemd.",
    )


def _rooms(context: BackendContext) -> Iterator[Check]:
    for what, folder in (("cache", plugin_cache(context)), ("temporary files", context.temp_dir)):
        place = folder
        while not place.exists() and place != place.parent:
            place = place.parent
        free = shutil.disk_usage(place).free
        words = f"{folder}: {free / (1 << 30):.0f} GiB free"
        if free < LITTLE_ROOM:
            yield Check(f"singularity {what}", Health.WARNING, words, "`medperf cache` shows what can be removed.")
        else:
            yield Check(f"singularity {what}", Health.OK, words)
