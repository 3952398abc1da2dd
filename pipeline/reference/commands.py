"""Reference page of the command line: every command with its arguments and options."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import get_args, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from pipeline.cli.discover import verbs
from pipeline.reference.docstrings import escaped


def commands() -> Iterator[str]:
    """Lines of the page, command by command in the order of the help."""
    for verb in verbs().values():
        app: typer.Typer = importlib.import_module(verb.module).app
        callback = app.registered_callback
        if callback is None or callback.callback is None:
            yield from _command(f"rung {verb.name}", app.registered_commands[0].callback, heading="##")
            continue
        yield from (f"## rung {verb.name}", "", inspect.cleandoc(callback.callback.__doc__ or ""), "")
        for each in app.registered_commands:
            name = each.name or getattr(each.callback, "__name__", "")
            yield from _command(f"rung {verb.name} {name}", each.callback, heading="###")


def _command(name: str, function: object, *, heading: str) -> Iterator[str]:
    if not callable(function):
        raise TypeError(f"`{name}` has no function")
    kinds = get_type_hints(function)
    arguments: list[tuple[str, str]] = []
    options: list[tuple[str, str]] = []
    required: list[str] = []
    for parameter, described in inspect.signature(function).parameters.items():
        match described.default:
            case ArgumentInfo() as info:
                shown = info.metavar or parameter.upper()
                arguments.append((shown, info.help or ""))
            case OptionInfo() as info:
                names = info.param_decls or (f"--{parameter.replace('_', '-')}",)
                takes = "" if kinds[parameter] is bool else f" {info.metavar or _takes(kinds[parameter])}"
                options.append(("`, `".join(names) + takes, _meaning(info)))
                if info.default is ...:
                    required.append(names[0] + takes)
            case _:
                raise TypeError(f"`{name}`: `{parameter}` is neither an argument nor an option")
    usage = [name, *required, *(["[OPTIONS]"] if options else []), *(shown for shown, _ in arguments)]
    yield from (f"{heading} {name}", "", f"`{' '.join(usage)}`", "")
    yield from (inspect.cleandoc(function.__doc__ or ""), "")
    if arguments or options:
        yield from ("| | |", "|---|---|")
        yield from (f"| `{escaped(left)}` | {escaped(right)} |" for left, right in arguments + options)
        yield ""


def _takes(kind: object) -> str:
    named = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
    for each in (kind, *get_args(kind)):
        if isinstance(each, type) and issubclass(each, Enum):
            return "|".join(str(member.value) for member in each)
        if isinstance(each, type) and each in named:
            return named[each]
    return "TEXT"


def _meaning(info: OptionInfo) -> str:
    text = (info.help or "").strip()
    default = getattr(info.default, "value", info.default)
    if default is ...:
        return f"{text} (required)"
    if default in (None, False, [], "") or "default" in text or "; 0:" in text:
        return text
    return (
        f"{text}; default: `{default:g}`" if isinstance(default, float) else f"{text}; default: `{default}`"
    )
