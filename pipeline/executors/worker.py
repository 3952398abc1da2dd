"""The worker process: does one request in isolation and reports what it did as JSON lines.

Compilers crash, hang and leak; a separate process turns that into a failed cell with a log. The worker
writes only into the store (atomically, by digest) and its scratch directory; the parent alone writes the
database.

Usage: `python -m pipeline.executors.worker ORDER.json EVENT_FD`. Standard output and error are the log.
"""

from __future__ import annotations

import ctypes
import importlib
import select
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import cast

from pipeline.stages.context import WorkerContext
from pipeline.stages.order import Request, WorkerOrder
from pipeline.stages.reporter import Reporter
from registry.errors import LoadError, RungError
from registry.store import Store

PR_SET_PDEATHSIG = 1  # prctl(2)

WorkFunction = Callable[[Request, WorkerContext], None]


def main() -> int:
    """Run the order named on the command line; the process's exit code."""
    _die_with_parent()
    if not _is_read(int(sys.argv[2])):
        return 1
    order = WorkerOrder.read_json(Path(sys.argv[1]))
    report = Reporter(int(sys.argv[2]))
    try:
        _check_chip(order)
        _run(order, report)
    except RungError as error:
        traceback.print_exc()
        report.error(error)
        return error.exit_code
    report.finish()
    return 0


def _check_chip(order: WorkerOrder) -> None:
    if order.chip is None or order.request.kind not in ("examine", "reference"):
        return
    from serving.node.host import this_host

    if (here := this_host().chip) != order.chip:
        raise LoadError(
            f"evidence of `{order.chip}` is wanted, this machine is `{here}`",
            hint="let only machines of the same processor offer `rung-host`",
        )


def _run(order: WorkerOrder, report: Reporter) -> None:
    module, _, function = order.request.work.partition(":")
    work = cast("WorkFunction", getattr(importlib.import_module(module), function))
    work(order.request, WorkerContext(Store(order.store), order.scratch, order.threads, report))


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when the build dies, so that `kill -9` leaves no stray compiler."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _is_read(events: int) -> bool:
    """Whether the build is there still: it may have been killed before this process could ask for its end."""
    poll = select.poll()
    poll.register(events, 0)  # that nobody reads a pipe any more is reported unasked
    return not poll.poll(0)


if __name__ == "__main__":
    sys.exit(main())
