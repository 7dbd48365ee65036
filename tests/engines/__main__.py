"""python -m tests.engines start|stop|status [NAME...]"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from . import apt, catalogue, state
from .engine import Engine
from .processes import EngineError

Result = tuple[Engine, str | None, float]
"""An engine, what went wrong with it, and the seconds it took."""


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; the exit code."""
    known = catalogue.engines()
    parser = argparse.ArgumentParser(prog="python -m tests.engines", description="The real engines of the test suite.")
    parser.add_argument("action", choices=("start", "stop", "status"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all of them if left out: {', '.join(known)}")
    asked = parser.parse_args(arguments)
    if unknown := set(asked.names) - set(known):
        parser.error(f"no engine is called {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    engines = [engine for name, engine in known.items() if not asked.names or name in asked.names]
    if asked.action == "status":
        return status(engines)
    if words := wrong_machine():
        print(words, file=sys.stderr)
        return 2
    if asked.action == "stop" and not state.folder().exists():
        print(f"Nothing was started: there is no {state.folder()}.")
        return 0
    try:
        state.create()
    except OSError as error:
        print(error, file=sys.stderr)
        return 2
    with state.locked():
        return start(engines) if asked.action == "start" else stop(engines)


def wrong_machine() -> str | None:
    """Why engines cannot be started or stopped here."""
    try:
        system = platform.freedesktop_os_release()["ID"]
    except OSError:
        system = platform.system()
    if system != "debian":
        return f"This machine runs {system}; the engines are installed and started on Debian only."
    if os.geteuid() != 0:
        return "Installing and starting the engines needs root."
    return None


def running(engine: Engine) -> dict[str, str] | None:
    """The addresses of an engine that runs."""
    own = engine.own(state.read_env())
    return own if own is not None and engine.running(own) else None


def status(engines: Sequence[Engine]) -> int:
    """Print one line for each; 1 if one does not run."""
    missing = 0
    for engine in engines:
        own = running(engine)
        missing += own is None
        print(f"{engine.name:14} {'not running' if own is None else engine.shown(own)}")
    return 1 if missing else 0


def start(engines: Sequence[Engine]) -> int:
    """Install and start what is missing; 1 if something did not start."""
    todo = [engine for engine in engines if running(engine) is None]
    announce(todo)
    problems = install(todo)
    ready = [engine for engine in todo if engine not in problems]
    values = state.read_env()
    for engine in todo:
        values = without(values, engine)
    for engine, problem, seconds in together(ready, lambda engine: values.update(engine.start())):
        if problem is not None:
            problems[engine] = problem
        else:
            print(f"{engine.name:14} {engine.shown(values)}  ready in {seconds:.1f} s", flush=True)
    state.write_env(values)
    for engine in engines:
        if engine not in todo:
            print(f"{engine.name:14} {engine.shown(values)}  runs already")
    for engine, problem in problems.items():
        print(f"{engine.name:14} FAILED: {problem}", file=sys.stderr)
    if values:
        print(f"Addresses: {state.folder() / 'engines.env'}")
    return 1 if problems else 0


def announce(todo: Sequence[Engine]) -> None:
    """Say what will be changed on this machine."""
    if not todo:
        print("Every engine asked for runs already; nothing is changed.")
        return
    print("What this changes on this machine:")
    if packages := sorted({package for engine in todo for package in engine.missing()}):
        print(f"- Installs with apt-get, without starting their services: {' '.join(packages)}.")
    for engine in todo:
        print(f"- {engine.plan()}")
    print(f"- Logs, process ids and ports go to {state.folder()}. Servers listen on 127.0.0.1 only.", flush=True)


def install(todo: Sequence[Engine]) -> dict[Engine, str]:
    """Install everything in one go, or, if that fails, for one engine after the other; what went wrong for which."""
    packages = sorted({package for engine in todo for package in engine.missing()})
    if not packages:
        return {}
    began = time.monotonic()
    problems: dict[Engine, str] = {}
    try:
        apt.install(packages, [unit for engine in todo if engine.missing() for unit in engine.units])
    except EngineError:
        for engine in todo:
            if engine.missing():
                try:
                    apt.install(engine.missing(), engine.units)
                except EngineError as error:
                    problems[engine] = str(error)
    print(f"apt-get took {time.monotonic() - began:.1f} s", flush=True)
    return problems


def stop(engines: Sequence[Engine]) -> int:
    """Stop what was started here; 1 if something could not be stopped."""
    values, failed = state.read_env(), 0
    for engine, problem, seconds in together(engines, lambda engine: engine.stop()):
        if problem is None:
            values = without(values, engine)
            print(f"{engine.name:14} stopped in {seconds:.1f} s", flush=True)
        else:
            failed = 1
            print(f"{engine.name:14} FAILED to stop: {problem}", file=sys.stderr)
    state.write_env(values)
    return failed


def without(values: dict[str, str], engine: Engine) -> dict[str, str]:
    """The addresses of all engines but one."""
    return {key: value for key, value in values.items() if key not in engine.keys}


def together(engines: Sequence[Engine], action: Callable[[Engine], None]) -> list[Result]:
    """Do the same with all engines at once; what one of them raises is kept as its result."""

    def one(engine: Engine) -> Result:
        began, problem = time.monotonic(), None
        try:
            action(engine)
        except EngineError as error:
            problem = str(error)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        return engine, problem, time.monotonic() - began

    with ThreadPoolExecutor(max(len(engines), 1)) as pool:
        return list(pool.map(one, engines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
