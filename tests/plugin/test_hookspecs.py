"""Every hook is documented with an example that runs."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest

from medperf_core.plugin.hookspecs import MedperfSpecs
from medperf_core.plugin.manager import PluginManager

HOOKS = {name: hook for name, hook in vars(MedperfSpecs).items() if name.startswith("medperf_")}


def example_of(hook: object) -> str:
    text = inspect.getdoc(hook) or ""
    lines = text.partition(".. code-block:: python\n")[2].splitlines()
    block = []
    for line in lines:
        if line and not line.startswith("    "):
            break
        block.append(line)
    return textwrap.dedent("\n".join(block))


@pytest.mark.parametrize("name", HOOKS)
def test_the_example_of_each_hook_runs_and_registers(name: str) -> None:
    code = example_of(HOOKS[name])
    assert f"def {name}(" in code
    namespace: dict[str, object] = {"__name__": "example_plugin"}
    exec(compile(code, f"<example of {name}>", "exec"), namespace)
    manager = PluginManager([])
    plugin = type("Example", (), {key: staticmethod(value) for key, value in namespace.items() if key == name})
    manager.add(plugin, "example")
    (record,) = manager.records()
    assert record.status == "loaded", record.reason
    assert record.provides


@pytest.mark.parametrize("name", HOOKS)
def test_the_example_takes_the_arguments_of_the_spec(name: str) -> None:
    tree = ast.parse(example_of(HOOKS[name]))
    function = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)
    wanted = [parameter for parameter in inspect.signature(HOOKS[name]).parameters if parameter != "self"]
    assert [argument.arg for argument in function.args.args] == wanted
