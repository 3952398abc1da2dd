"""Entry point of `rung`. A command is imported when it runs, so that `rung --help` imports nothing heavy.

Exit codes: 0 done, 2 usage or configuration, 3 not found or registry, 4 build failed, 5 toolchain missing,
6 evaluation could not run, 7 cannot load here, 8 refused.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from types import FrameType
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from pipeline.cli import output
from pipeline.cli.console import clean_streams
from pipeline.cli.discover import verbs
from pipeline.cli.names import COMPLETE_VARIABLE
from registry.errors import ConfigurationError, RungError, ToolchainMissingError, UnknownNameError

INTERRUPTED = 128 + signal.SIGINT
Untyped = Any  # typer's copies of click's Context and Command are private


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are used."""

    _only_names = False
    """Whether commands are only listed for a shell that completes one."""

    def list_commands(self, ctx: Untyped) -> list[str]:
        """Names of the commands, in the order of the help."""
        return list(verbs())

    def get_command(self, ctx: Untyped, cmd_name: str) -> Untyped:
        """The command `cmd_name`; only its name and help line while all commands are listed.

        Raises:
            UnknownNameError: No such command.
        """
        verb = verbs().get(cmd_name)
        if verb is None and _completing():
            return None  # whoever completes the rest of a wrong line is shown nothing
        if verb is None:
            raise UnknownNameError.of("command", cmd_name, known=verbs())
        if self._only_names or (sys.argv[1:2] in ([], ["--help"]) and not _completing()):
            return TyperCommand(verb.name, callback=None, help=verb.summary)
        command = typer.main.get_command(importlib.import_module(verb.module).app)
        command.name = verb.name
        return command

    def shell_complete(self, ctx: Untyped, incomplete: str) -> list[Untyped]:
        """Commands and options that begin like this; imports no command."""
        self._only_names = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._only_names = False


def _completing() -> bool:
    """Whether a shell asks how a command line could go on (`rung completion`)."""
    return COMPLETE_VARIABLE in os.environ


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
    """Ship one model family across hardware that differs from region to region."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `rung` and exit with its documented code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run `rung`; the exit code."""
    if arguments is not None:
        sys.argv = ["rung", *arguments]
    with clean_streams(), _ended_like_an_interrupt() as caught:
        code = _run()
    if caught and code == INTERRUPTED:
        return 128 + caught[0]
    return code


@contextmanager
def _ended_like_an_interrupt() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP end a command as ^C does: its workers end and its temporaries go.

    Gives the signals that have come. Whoever handles them otherwise, as a server does, is not disturbed.
    """
    caught: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()  # signals reach no other
    usual = [
        one for one in (signal.SIGTERM, signal.SIGHUP) if here and signal.getsignal(one) == signal.SIG_DFL
    ]
    for one in usual:
        signal.signal(one, end)
    try:
        yield caught
    finally:
        for one in usual:
            signal.signal(one, signal.SIG_DFL)


def _run() -> int:
    if _completing():
        from typer import completion

        completion.completion_init()  # type: ignore[attr-defined]  # typer does it only for its own options
    try:
        app(prog_name="rung")
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            output.note("interrupted; finished work is kept, run the same command to resume")
        return end.code if isinstance(end.code, int) else ConfigurationError.exit_code
    except RungError as error:
        output.error(error)
        return error.exit_code
    except ModuleNotFoundError as missing:
        output.error(_not_installed(missing))
        return ToolchainMissingError.exit_code
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
