"""`rung build`: build, verify and evaluate what a ladder still lacks."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import typer

from pipeline.cli import context, output
from pipeline.cli.names import target_names
from pipeline.cli.progress import show_progress
from registry.errors import CorruptError


class ExecutorName(Enum):
    """What runs the work of a build."""

    local = "local"
    ray = "ray"


class Until(Enum):
    """How far a build goes."""

    built = "built"
    evaluated = "evaluated"


ORDER = 30
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def build(
    ladder: Path = typer.Argument(metavar="LADDER", help="The ladder file"),
    target: list[str] = typer.Option([], help="Only this target; repeatable", autocompletion=target_names),
    recipe: list[str] = typer.Option([], help="Only this recipe; repeatable"),
    toolchain: list[str] = typer.Option([], help="Only this toolchain; repeatable"),
    checkpoint: list[str] = typer.Option([], help="Only this checkpoint; repeatable"),
    jobs: int = typer.Option(0, min=0, help="Worker processes in parallel; 0: one per processor"),
    memory: float = typer.Option(
        0.0, min=0.0, help="Memory for all workers, GiB; 0: three quarters of this machine's"
    ),
    executor: ExecutorName = typer.Option(
        ExecutorName.local, help="Where the work runs; `ray`: on the cluster named by RAY_ADDRESS"
    ),
    timeout: float = typer.Option(3600.0, min=1.0, help="Time limit for each piece of work, seconds"),
    until: Until = typer.Option(
        Until.evaluated, help="`built`: compile and prove only; a later build evaluates"
    ),
    allow_code: list[str] = typer.Option(
        [],
        metavar="DIGEST",
        help="Let the code of task files with this digest run here; recorded; repeatable",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the cells as JSON"),
) -> None:
    """Export, quantize, lower, verify, evaluate and judge whatever is missing or stale; resumable."""
    from matrices.views.cell_page import float_in_words
    from matrices.views.inputs import inputs_in_words
    from pipeline.build.build import Options, build_ladder, in_words
    from pipeline.build.plan import Filters

    options = Options(
        jobs=jobs,
        memory_gib=memory,
        timeout_s=timeout,
        executor=executor.value,
        stop_after=until.value,
        allow_code=tuple(allow_code),
    )
    filters = Filters(tuple(target), tuple(recipe), tuple(toolchain), tuple(checkpoint))
    workspace = context.this_workspace()
    with show_progress() as display:
        report = build_ladder(workspace, ladder, filters=filters, options=options, display=display)
    if as_json:
        output.data(report.cells)
    if report.judged_again:
        output.note(f"{len(report.judged_again)} cells judged again, from the outcomes that were stored")
    if report.damaged:
        output.note(f"{len(report.damaged)} damaged blobs were removed: {', '.join(report.damaged[:4])}")
    if not (report.ran or report.failures or report.damaged or report.lost):
        output.note(f"nothing to build: {len(report.cells)} cells are up to date")
    else:
        output.note(f"{len(report.ran)} stages run, {len(report.cells)} cells, {len(report.failures)} failed")
        output.note(f"what was reached is kept: {in_words(report.cells)}")
    for made in report.cells:
        if made.variant is not None and made.variant.left_in_float:
            output.note(f"{made.id}: {float_in_words(made.variant.left_in_float)}")
        if made.variant is not None and made.variant.wide_inputs and (inputs := inputs_in_words(made)):
            output.note(f"{made.id}: inputs of products are {inputs}")
    for cell, failure in sorted(report.failures.items()):
        output.note(f"failed: {cell}: {failure.message}\n  hint: {failure.hint}")
    if report.ran:
        context.track(workspace, context.database(workspace))
    for text in report.lost:
        output.note(f"lost: {text}\n  hint: import, register or release again what it belongs to")
    if report.lost and not report.failures:
        raise typer.Exit(CorruptError.exit_code)
    if report.failures:
        raise typer.Exit(max(failure.exit_code for failure in report.failures.values()))
