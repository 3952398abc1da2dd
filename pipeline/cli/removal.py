"""What `rung release remove` and `rung checkpoint remove` share: the dry run, the act and the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.cli import context, output
from pipeline.workspace.locks import alone
from registry.errors import ConfigurationError, NotFoundError
from registry.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.workspace.remove import Plan

BY_HELP = "Who removes it; kept on record"
REASON_HELP = "Why; kept on record"
FORCE_HELP = "Remove it though something depends on it; what depended on it is kept on record"
DRY_RUN_HELP = "Only say what depends on it and what it frees"


def remove(
    make_plan: Callable[[Workspace], Plan],
    *,
    by: str | None,
    reason: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Plan a removal and carry it out, unless it is a dry run.

    Raises:
        ConfigurationError: Somebody writes at the same time, or no person or reason is given.
        NotFoundError: It is not there.
        RefusedError: Something depends on it.
    """
    workspace = context.this_workspace()
    if dry_run:
        _print(make_plan(workspace), done=False, as_json=as_json)
        return
    if by is None or reason is None:
        raise ConfigurationError(
            "a removal needs `--by WHO` and `--reason WHY`", hint="add them, or `--dry-run` to look only"
        )
    from pipeline.workspace.remove import carry_out, finish_killed

    with alone(workspace) as nobody_writes:
        if not nobody_writes:
            raise ConfigurationError(
                f"something is being written in workspace `{workspace.root}`",
                hint="wait for the build or the import that is running; `--dry-run` works beside it",
            )
        database = context.database(workspace)
        try:
            plan = make_plan(workspace)
        except NotFoundError:
            finish_killed(workspace, database=database, checkpoints=context.checkpoints(workspace))
            raise
        carry_out(plan, workspace=workspace, database=database, who=by, why=reason, force=force)
    _print(plan, done=True, as_json=as_json)


def _print(plan: Plan, *, done: bool, as_json: bool) -> None:
    from matrices.views.table import size

    if as_json:
        output.data(
            {
                "kind": plan.kind,
                "name": plan.name,
                "digest": plan.digest,
                "removed": done,
                "dependants": plan.dependants,
                "remains": plan.remains,
                "blobs": len(plan.blobs),
                "freed_bytes": plan.freed_bytes,
            }
        )
        return
    verb = "removed" if done else "would remove"
    output.line(f"{verb} {plan.kind} {plan.name}: {size(plan.freed_bytes)} in {len(plan.blobs):,} blobs")
    for dependant in plan.dependants:
        output.line(f"  {'overridden' if done else 'needed'}: {dependant}")
    for rest in plan.remains:
        output.line(f"  remains: {rest}")
