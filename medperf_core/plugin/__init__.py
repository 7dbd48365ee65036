"""The contract: all that a plugin may import, with ``medperf_core.entities`` and ``medperf_core.errors``.

Names are loaded when they are first used, so that a plugin's module stays light at every start.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medperf_core.plugin.context import BackendContext, CancelToken
    from medperf_core.plugin.descriptors import (
        Descriptor,
        ExecutorPlugin,
        PackagerPlugin,
        RunnerPlugin,
        ServerPlugin,
        StoragePlugin,
    )
    from medperf_core.plugin.doctor import Check, Health
    from medperf_core.plugin.events import Event, Notice, Progress, StepFinished, StepStarted, TaskLog
    from medperf_core.plugin.executor import Executor, ExecutorPromise, JobHandle, JobState, TaskJob
    from medperf_core.plugin.hookspecs import hookimpl
    from medperf_core.plugin.isolation import (
        Capabilities,
        Condition,
        Enforcement,
        Guarantee,
        Limit,
        Waiver,
        check_isolation,
    )
    from medperf_core.plugin.packager import LocalFiles, Manifest, Packager
    from medperf_core.plugin.policy import Action, Decision, PolicySubject
    from medperf_core.plugin.runner import (
        Gpus,
        Mount,
        PreparedImage,
        Resources,
        Runner,
        TaskOutcome,
        TaskRequest,
    )
    from medperf_core.plugin.server import Ask, Login, Party, ServerClient, ServerPromise, Submission
    from medperf_core.plugin.settings import NoSettings, setting
    from medperf_core.plugin.storage import FetchInfo, FetchRequest, Sink, Storage, StoragePromise

_HOMES = {
    "context": ("BackendContext", "CancelToken"),
    "descriptors": ("Descriptor", "ExecutorPlugin", "PackagerPlugin", "RunnerPlugin", "ServerPlugin", "StoragePlugin"),
    "doctor": ("Check", "Health"),
    "events": ("Event", "Notice", "Progress", "StepFinished", "StepStarted", "TaskLog"),
    "executor": ("Executor", "ExecutorPromise", "JobHandle", "JobState", "TaskJob"),
    "hookspecs": ("hookimpl",),
    "isolation": ("Capabilities", "Condition", "Enforcement", "Guarantee", "Limit", "Waiver", "check_isolation"),
    "packager": ("LocalFiles", "Manifest", "Packager"),
    "policy": ("Action", "Decision", "PolicySubject"),
    "runner": ("Gpus", "Mount", "PreparedImage", "Resources", "Runner", "TaskOutcome", "TaskRequest"),
    "server": ("Ask", "Login", "Party", "ServerClient", "ServerPromise", "Submission"),
    "settings": ("NoSettings", "setting"),
    "storage": ("FetchInfo", "FetchRequest", "Sink", "Storage", "StoragePromise"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Action",
    "Ask",
    "BackendContext",
    "CancelToken",
    "Capabilities",
    "Check",
    "Condition",
    "Decision",
    "Descriptor",
    "Enforcement",
    "Event",
    "Executor",
    "ExecutorPlugin",
    "ExecutorPromise",
    "FetchInfo",
    "FetchRequest",
    "Gpus",
    "Guarantee",
    "Health",
    "JobHandle",
    "JobState",
    "Limit",
    "LocalFiles",
    "Login",
    "Manifest",
    "Mount",
    "NoSettings",
    "Notice",
    "Packager",
    "PackagerPlugin",
    "Party",
    "PolicySubject",
    "PreparedImage",
    "Progress",
    "Resources",
    "Runner",
    "RunnerPlugin",
    "ServerClient",
    "ServerPlugin",
    "ServerPromise",
    "Sink",
    "StepFinished",
    "StepStarted",
    "Storage",
    "StoragePlugin",
    "StoragePromise",
    "Submission",
    "TaskJob",
    "TaskLog",
    "TaskOutcome",
    "TaskRequest",
    "Waiver",
    "check_isolation",
    "hookimpl",
    "setting",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
