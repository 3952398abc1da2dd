"""`rung doctor`: say what this machine can build and run; check a workspace."""

from __future__ import annotations

from typing import Any

import typer

from pipeline.cli import context, output
from pipeline.workspace.locks import alone
from registry.errors import ConfigurationError, RegistryError, ToolchainMissingError
from registry.target import missing_features, targets
from registry.workspace import Workspace, find_workspace

ORDER = 140
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def doctor(
    repair: bool = typer.Option(
        False, "--repair", help="Repair what can be repaired; what is lost is built again"
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON"),
) -> None:
    """Say what this machine can build and run; check the workspace's store and database (exit 3: broken)."""
    machine = _machine()
    try:
        workspace = find_workspace()
    except ConfigurationError:
        workspace = None
    found = [] if workspace is None else _workspace(workspace, repair=repair)
    if as_json:
        output.data(
            {"machine": machine, "workspace": str(workspace.root) if workspace else None, "findings": found}
        )
    else:
        _print(machine, workspace, found, repair=repair)
    if found and not repair:
        raise typer.Exit(RegistryError.exit_code)


def _machine() -> dict[str, Any]:  # Any: JSON
    from pipeline.workspace.installed import installed_toolchains
    from serving.node.host import installed_runtimes, this_host

    host = this_host()
    toolchains = {
        name: {"missing": each.message, "hint": each.hint}
        if isinstance(each, ToolchainMissingError)
        else each
        for name, each in installed_toolchains().items()
    }
    lacking = {name: missing_features(host, target=target) for name, target in targets().items()}
    return {
        "host": host.model_dump(mode="json"),
        "runtimes": installed_runtimes(),
        "toolchains": toolchains,
        "targets": {
            name: "runs here" if not lack else f"lacks {', '.join(lack[:4])}"
            for name, lack in lacking.items()
        },
    }


def _workspace(workspace: Workspace, *, repair: bool) -> list[dict[str, str]]:
    from pipeline.workspace.upkeep import inspect_workspace, repair_workspace

    database, checkpoints = context.database(workspace), context.checkpoints(workspace)
    with alone(workspace) as nobody_writes:
        if not nobody_writes:
            raise ConfigurationError(
                f"something is being written in workspace `{workspace.root}`",
                hint="ask again when it has finished",
            )
        act = repair_workspace if repair else inspect_workspace
        found = act(workspace, database=database, checkpoints=checkpoints)
    return [{"kind": f.kind, "subject": f.subject, "detail": f.detail} for f in found]


def _print(
    machine: dict[str, Any], workspace: Workspace | None, found: list[dict[str, str]], *, repair: bool
) -> None:
    from serving.node.host import this_host

    host = this_host()
    output.line(
        f"host        {host.chip}, {host.architecture}, {host.cores} cores, "
        f"{host.memory_bytes / 2**30:.1f} GiB"
    )
    for kind in ("toolchains", "targets"):
        for name, said in sorted(machine[kind].items()):
            text = f"missing: {said['missing']} ({said['hint']})" if isinstance(said, dict) else said
            output.line(f"{kind[:-1]:<11} {name:<24} {text}")
    if workspace is None:
        output.line("workspace   none here (`rung init` makes one)")
        return
    output.line(f"workspace   {workspace.root}")
    for each in found:
        output.line(
            f"{'repaired' if repair else 'problem':<11} {each['kind']}: {each['subject']}: {each['detail']}"
        )
    if not found:
        output.line("            store and database are sound: no orphan, nothing half-written")
    elif not repair:
        output.note("hint: run `rung doctor --repair`")
