"""What every engine has in common: needs, start, stop, and whether it answers."""

from __future__ import annotations

import abc
import dataclasses
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from . import processes, state
from .processes import EngineError


@dataclasses.dataclass(frozen=True)
class Launch:
    """One daemon to start: its command line, its user (root if None), and the addresses it will have."""

    argv: list[str]
    values: dict[str, str]
    user: str | None = None
    env: dict[str, str] | None = None


class Engine(abc.ABC):
    """One engine of one process. An engine of several processes overrides `start`, `stop` and `running`."""

    name: str
    title: str
    """What starts, for people: "an OCI registry"."""
    programs: tuple[tuple[str, str], ...]
    """The programs needed and the Debian package of each; a program may be a pattern of absolute paths."""
    units: tuple[str, ...] = ()
    """Services that Debian would start at boot when the packages are installed; they are disabled after that."""
    keys: tuple[str, ...]
    """The keys of engines.env that this engine gives; the first is the address that is printed."""
    port_names: tuple[str, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    patience: float = 30
    """Seconds that starting may take, and stopping."""

    @property
    def home(self) -> Path:
        """The folder of this engine's data."""
        return state.home(self.name)

    @abc.abstractmethod
    def prepare(self, ports: Mapping[str, int]) -> Launch:
        """Write the settings and say what to start."""

    @abc.abstractmethod
    def answers(self, values: Mapping[str, str]) -> bool:
        """Whether a server answers at these addresses."""

    def own(self, values: Mapping[str, str]) -> dict[str, str] | None:
        """This engine's part of engines.env; None when it is not there."""
        return {key: values[key] for key in self.keys} if all(key in values for key in self.keys) else None

    def shown(self, values: Mapping[str, str]) -> str:
        """What people read about an engine that runs: its first address."""
        return values[self.keys[0]]

    def missing(self) -> list[str]:
        """The packages to install."""
        return sorted({package for program, package in self.programs if find(program) is None})

    def plan(self) -> str:
        """What `start` will do, as a sentence; called when the engine does not run."""
        return f"Starts {self.title}, data in {self.home}."

    def running(self, values: Mapping[str, str]) -> bool:
        """Whether the engine that was started here runs and answers."""
        return processes.alive(self.name) and self.answers(values)

    def start(self) -> dict[str, str]:
        """Start what does not run; the addresses. What a killed engine left behind is cleared first."""
        for attempt in range(3):
            self.stop()
            launch = self.prepare(state.ports(self.name, self.port_names, fresh=attempt > 0))
            child = processes.spawn(self.name, launch.argv, launch.user, launch.env)
            if self._ready(launch, child):
                processes.remember(self.name)
                return launch.values
            time.sleep(0.5 * (attempt + 1))  # a port was taken meanwhile, or a killed predecessor still lets go
        raise EngineError(f"it ended at once\n{self.last_words()}")

    def _ready(self, launch: Launch, child: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + self.patience
        while child.poll() is None:
            if self.answers(launch.values) and child.poll() is None:
                return True
            if time.monotonic() > deadline:
                words = self.last_words()
                self.stop()
                raise EngineError(f"it did not answer within {self.patience:.0f} s\n{words}")
            time.sleep(0.05)
        return False

    def stop(self) -> None:
        """Stop what was started here, and nothing else."""
        processes.stop(self.name, self.stop_signal, self.patience)

    def last_words(self) -> str:
        """The end of the log."""
        log = state.log(self.name)
        return processes.tail(log.read_text(errors="replace")) if log.exists() else ""


def find(program: str) -> str | None:
    """The path of a program, also where a user's PATH does not look; of several that match, the newest version's."""
    if program.startswith("/"):
        found = sorted(Path("/").glob(program[1:]), key=lambda path: [int(p) for p in path.parts if p.isdigit()])
        return str(found[-1]) if found else None
    return shutil.which(program, path=processes.PATH)


def need(program: str) -> str:
    """The path of a program that must be there."""
    path = find(program)
    if path is None:
        raise EngineError(f"the program {program} was not found")
    return path
