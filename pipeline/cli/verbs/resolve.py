"""`rung resolve`: say which artifact a host may serve, and why no better one."""

from __future__ import annotations

from pathlib import Path

import typer

from matrices.resolve.explain import explain_decision
from matrices.resolve.request import Request
from matrices.resolve.resolve import resolve as decide
from pipeline.cli import context, output
from registry.errors import LoadError, RefusedError

ORDER = 90
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def resolve(
    task: list[str] = typer.Option(..., help="Task type to serve; repeatable"),
    min_tier: int = typer.Option(..., min=1, help="The lowest acceptable tier; 1 is the best"),
    family: str | None = typer.Option(None, help="The family; default: the release's"),
    release: str | None = typer.Option(None, help="Name or directory of the release; default: the newest"),
    region: str | None = typer.Option(None, help="Region of the node"),
    callers: int = typer.Option(1, min=1, help="Callers that are served at the same time"),
    tokens: int | None = typer.Option(
        None, min=1, help="Tokens of each, prompt and answer together; default: the checkpoint's context"
    ),
    host: Path | None = typer.Option(
        None, help="Facts of another host: a file with what `rung doctor --json` prints there"
    ),
    key: Path | None = typer.Option(None, help="The public key to trust; default: the workspace's"),
    as_json: bool = typer.Option(False, "--json", help="Print the decision as JSON"),
) -> None:
    """Decide from a release alone. The answer names the first gate that each candidate failed (exit 8)."""
    from matrices.releases.revocations import read_revocations
    from pipeline.workspace.releases import find_release, newest_release
    from serving.node.choose import node_facts
    from serving.node.host import read_host, read_runtimes, this_host

    name = release or newest_release(context.this_workspace(), family=family)
    found, workspace = find_release(name, key=key)
    revoked = None
    if workspace is not None:
        revoked = read_revocations(workspace.revocations, public_key=key or workspace.public_key).reasons
    machine = this_host() if host is None else read_host(host)
    runtimes = None if host is None else read_runtimes(host)
    request = Request(
        family=family or found.family,
        task=tuple(task),
        min_tier=min_tier,
        region=region,
        batch=callers,
        context_tokens=tokens,
    )
    decision = decide(found, node_facts(request, machine, runtimes=runtimes, revoked=revoked))
    if as_json:
        output.data(decision)
    else:
        for line in explain_decision(decision):
            output.line(line)
    if decision.outcome != "allow":
        raise typer.Exit(LoadError.exit_code if decision.is_only("hardware") else RefusedError.exit_code)
