"""`rung`: the entry point. Verbs load on first use, so that `rung --help` imports nothing heavy.

Exit codes: 0 done, 2 usage or configuration, 3 not found or registry, 4 build failed, 5 toolchain missing,
6 evaluation could not run, 7 cannot load here, 8 refused.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from pipeline.cli import output
from registry.errors import ConfigurationError, RungError, ToolchainMissingError, UnknownNameError

VERBS: Mapping[str, tuple[str, str]] = {
    "init": ("pipeline.cli.init", "Make a workspace: rung.toml, .rung/ and signing keys"),
    "checkpoint": ("pipeline.cli.checkpoint", "Register checkpoints in MLflow, and list them"),
    "build": ("pipeline.cli.build", "Build, verify and evaluate all that a ladder lacks; resumable"),
    "matrix": ("pipeline.cli.matrix", "Show, explain, compare and export the compatibility matrix"),
    "approve": ("pipeline.cli.approve", "Approve cells for release"),
    "reject": ("pipeline.cli.reject", "Reject cells"),
    "withdraw": ("pipeline.cli.withdraw", "Withdraw approved cells"),
    "release": ("pipeline.cli.release", "Create, list and verify signed releases"),
    "resolve": ("pipeline.cli.resolve", "Say which artifact a host may serve, and why not a better one"),
    "pull": ("pipeline.cli.pull", "Pull a release's artifacts to a node, verified"),
    "evidence": ("pipeline.cli.evidence", "Get evidence from nodes: export, run, import, trust, refresh"),
    "node-compile": ("pipeline.cli.node_compile", "Compile a portable artifact with the node's own toolkit"),
    "serve": ("pipeline.cli.serve", "Serve the best artifact over an OpenAI-compatible API"),
    "doctor": (
        "pipeline.cli.doctor",
        "Say what this machine can build and run, and what is missing or broken",
    ),
}
"""Verb → (module with `app`, one line of help), in the order of a checkpoint's way."""


Untyped = Any  # typer's copies of click's Context and Command are private


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: Untyped) -> list[str]:
        """The verbs, in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: Untyped, cmd_name: str) -> Untyped:
        """The command of a verb; a stand-in with its help line while help is printed.

        Raises:
            UnknownNameError: No such verb.
        """
        if cmd_name not in VERBS:
            raise UnknownNameError.of("command", cmd_name, known=VERBS)
        module, summary = VERBS[cmd_name]
        if sys.argv[1:2] in ([], ["--help"]):
            return TyperCommand(cmd_name, callback=None, help=summary)
        command = typer.main.get_command(importlib.import_module(module).app)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        output.line(f"rung {metadata.version('rung')}")
        raise typer.Exit


@app.callback()
def rung(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit", is_eager=True, callback=_print_version
    ),
) -> None:
    """Ship a ladder of a model across hardware that differs by law and by scarcity."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `rung` and exit with its documented code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run `rung`; the exit code."""
    if arguments is not None:
        sys.argv = ["rung", *arguments]
    try:
        app(prog_name="rung")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ConfigurationError.exit_code
    except RungError as error:
        output.error(error)
        return error.exit_code
    except ModuleNotFoundError as missing:
        output.error(_not_installed(missing))
        return ToolchainMissingError.exit_code
    except KeyboardInterrupt:
        output.note("interrupted; what was finished is kept, run the same command to go on")
        return 130
    except BrokenPipeError:
        # The reader of our stdout has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _not_installed(missing: ModuleNotFoundError) -> ToolchainMissingError:
    return ToolchainMissingError(
        f"`{' '.join(['rung', *sys.argv[1:2]])}` needs `{missing.name}`, which is not installed here",
        hint="install the build machine's part: `pip install 'rung[build,eval]'`",
    )


if __name__ == "__main__":
    main()
