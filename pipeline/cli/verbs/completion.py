"""`rung completion`: print a script that completes commands in a shell."""

from __future__ import annotations

from enum import Enum

import typer
from typer import completion as typers

from pipeline.cli import output
from pipeline.cli.names import COMPLETE_VARIABLE

ORDER = 150
app = typer.Typer(add_completion=False, rich_markup_mode=None)

_WHOLE_NAMES = (
    "# Names of cells hold colons, at which bash would split them.\nCOMP_WORDBREAKS=${COMP_WORDBREAKS//:}"
)


class Shell(Enum):
    """A shell that has a script."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


@app.command()
def completion(shell: Shell = typer.Argument(help="bash, zsh or fish")) -> None:
    """Print a script that completes commands, options, and names of the workspace.

    bash: `eval "$(rung completion bash)"` in ~/.bashrc. zsh: `eval "$(rung completion zsh)"` after `compinit`
    in ~/.zshrc. fish: `rung completion fish > ~/.config/fish/completions/rung.fish`.
    """
    # typer lists neither name in `__all__`, though its documentation has them.
    script = typers.get_completion_script(  # type: ignore[attr-defined]
        prog_name="rung", complete_var=COMPLETE_VARIABLE, shell=shell.value
    )
    if shell is Shell.bash:
        output.line(_WHOLE_NAMES)
    output.line(script)
