"""``medperf completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from medperf_core.cli.output import note
from medperf_core.cli.run import COMPLETE_VARIABLE, PROGRAM

HOW = {
    "bash": 'Put this into ~/.bashrc: eval "$(medperf completion bash)"',
    "zsh": 'Put this into ~/.zshrc: eval "$(medperf completion zsh)"',
    "fish": "Save it: medperf completion fish > ~/.config/fish/completions/medperf.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(HOW)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(ctx.find_root().command, {}, PROGRAM, COMPLETE_VARIABLE).source())
        note(f"# {HOW[shell]}")
