"""The ``process`` section: how the ``process`` runner does a container's tasks. Our own addition to both formats."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import attrs

from medperf_core.builtin._manifests import Reading, shown

PROJECT = "../project"
"""Where the project of a new container stands, seen from its manifest."""

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")


@attrs.frozen
class ProcessSection:
    """What the section says.

    Attributes:
        place: the folder of the project as the manifest writes it; "" if there is none.
        project: the project's folder on this machine; None if it is not here.
        commands: argv by task.
    """

    place: str = ""
    project: Path | None = None
    commands: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)


def read_process(reading: Reading, value: Any, labels: Mapping[str, Collection[str]]) -> ProcessSection:
    """Read ``process: {project: FOLDER, tasks: {TASK: [WORD, ...]}}``.

    Args:
        reading: the manifest.
        value: the section.
        labels: the labels of each task's volumes, which ``{label}`` placeholders may name.
    """
    section = reading.section(value, "process", ("project", "tasks"))
    if value is not None and "project" not in section:
        reading.refuse("process", "project is missing: the folder, relative to the manifest, that the tasks run from")
    place = reading.text(section, "project", "process", 1000)
    project = _project(reading, place) if place else None
    commands = {
        name: _argv(reading, words, name, labels)
        for name, words in reading.labels(section.get("tasks"), "process.tasks", "task").items()
    }
    return ProcessSection(place, project, commands)


def _project(reading: Reading, text: str) -> Path | None:
    if reading.manifest.project is not None:
        return reading.manifest.project.absolute()
    try:
        project = reading.folder(text)
    except ValueError as error:
        reading.refuse("process.project", str(error))
        return None
    if project is None and reading.manifest.base is not None:
        reading.note(f"process.project: the folder {shown(text)} is not here, so the process runner cannot run this.")
    return project


def _argv(reading: Reading, words: Any, task: str, labels: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    place = f"process.tasks.{task}"
    if task not in labels:
        near = difflib.get_close_matches(task, labels, 1)
        meant = f"Did you mean {near[0]}?" if near else f"Its tasks are: {', '.join(labels) or 'none'}."
        reading.refuse(place, f"the manifest has no task of this name. {meant}")
        return ()
    if not isinstance(words, list) or not words or not words[0]:
        reading.refuse(place, "must be a list of words, the program first, such as [python3, infer.py, '{data_path}']")
        return ()
    argv = reading.words(words, place)
    known = ", ".join(f"{{{label}}}" for label in labels[task]) or "none"
    for name in sorted({name for word in argv for name in _PLACEHOLDER.findall(word)} - set(labels[task])):
        reading.refuse(place, f"{shown('{' + name + '}')} names no volume of this task; there are: {known}")
    return argv
