"""The progress display of a build: bars on a terminal, a line per finished node elsewhere; on stderr."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from pipeline.build.recorder import Display
from pipeline.cli.console import CleanConsole
from pipeline.cli.estimate import Estimate
from pipeline.executors.interface import Failure

SAID_EVERY_S = 30.0
"""Where there is no terminal, work that takes longer says this often where it is."""


@contextlib.contextmanager
def show_progress() -> Iterator[Display]:
    """A display for the time of a build."""
    console = CleanConsole(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        yield _Bars(progress)


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._all = progress.add_task("build", total=None)
        self._running: dict[str, TaskID] = {}
        self._estimates: dict[str, Estimate] = {}

    def note(self, text: str) -> None:
        self._progress.console.print(Text(text), highlight=False, soft_wrap=True)

    def total(self, count: int) -> None:
        self._progress.update(self._all, total=count)

    def started(self, name: str) -> None:
        self._running[name] = self._progress.add_task(f"  {name}", total=None)

    def progress(self, name: str, text: str) -> None:
        shown = self._estimates.setdefault(name, Estimate()).words(text, now_s=time.monotonic())
        self._progress.update(self._running[name], description=f"  {name}: {shown}")

    def ended(self, name: str, failure: Failure | None, *, ran: bool) -> None:
        if (task := self._running.pop(name, None)) is not None:
            self._progress.remove_task(task)
        if failure is not None:
            self._progress.console.print(Text.assemble(("failed", "red"), f" {name}"), highlight=False)
        self._progress.advance(self._all)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._count = 0
        self._total = 0
        self._since: dict[str, float] = {}
        self._said: dict[str, float] = {}
        self._estimates: dict[str, Estimate] = {}

    def note(self, text: str) -> None:
        self._console.print(Text(text), highlight=False, soft_wrap=True)

    def total(self, count: int) -> None:
        self._total = count

    def started(self, name: str) -> None:
        self._since[name] = time.monotonic()

    def progress(self, name: str, text: str) -> None:
        now = time.monotonic()
        shown = self._estimates.setdefault(name, Estimate()).words(text, now_s=now)
        if now - self._said.get(name, self._since.get(name, now)) >= SAID_EVERY_S:
            self._said[name] = now
            self._console.print(f"  {name}: {shown}", markup=False, highlight=False, soft_wrap=True)

    def ended(self, name: str, failure: Failure | None, *, ran: bool) -> None:
        self._count += 1
        if not ran and failure is None:
            return
        mark = "failed" if failure else "done"
        took = f" ({time.monotonic() - self._since[name]:.1f} s)" if name in self._since else ""
        self._console.print(
            f"[{self._count}/{self._total}] {mark} {name}{took}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
