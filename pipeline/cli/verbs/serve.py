"""`rung serve`: serve the best artifact over an OpenAI-compatible API."""

from __future__ import annotations

from pathlib import Path

import typer

from pipeline.cli import context, output
from registry.digest import short

ORDER = 130
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def serve(
    node: Path | None = typer.Option(
        None, help="A node's directory, filled by `rung pull`; default: this workspace's own"
    ),
    release: str | None = typer.Option(
        None, help="The release; default: the only one, or the workspace's newest"
    ),
    family: str | None = typer.Option(None, help="The family, where the workspace has several"),
    task: list[str] = typer.Option(
        [], help="Task type that it has to serve; repeatable; default: all of the release"
    ),
    min_tier: int | None = typer.Option(
        None, min=1, help="The lowest tier that will do; default: the ladder's last"
    ),
    artifact: str | None = typer.Option(None, help="Only this artifact will do: digest or cell id"),
    region: str | None = typer.Option(None, help="Where this node stands; named in every answer"),
    key: Path | None = typer.Option(None, help="The public key to trust; default: the one given at the pull"),
    address: str = typer.Option("127.0.0.1", help="Address to listen on"),
    port: int = typer.Option(8421, help="Port to listen on; 0 takes a free one"),
    threads: int = typer.Option(1, min=1, help="Threads of the runtime"),
    slots: int | None = typer.Option(
        None, min=1, help="Sequences that run together; default: as many as fit, at most 8"
    ),
    max_context: int | None = typer.Option(
        None, min=1, help="Tokens of one sequence; default: the checkpoint's, or what fits"
    ),
) -> None:
    """Serve. Exit 7: cannot load here; exit 8: nothing may be served here as asked."""
    from serving.contract.promise import make_holding
    from serving.http.app import create_service
    from serving.http.server import open_socket
    from serving.http.server import serve as answer
    from serving.node.directory import Wanted, accept, bundle_of, decide, pull_to_node, read_node
    from serving.node.host import this_host
    from serving.node.load import load_bundle

    listening = open_socket(host=address, port=port)
    host = this_host()
    wanted = Wanted(tasks=tuple(task), min_tier=min_tier, artifacts=(artifact,) if artifact else ())
    if node is None:
        from pipeline.workspace.releases import newest_release

        workspace = context.this_workspace()
        release = release or newest_release(workspace, family=family)
        node = workspace.state / "node"
        pull_to_node(release, source=None, key=key, out=node, wanted=wanted, host=host, report=None)
    snapshot = read_node(node, release=release, key=key)
    decision = decide(snapshot, wanted, host, region=region)
    chosen = accept(decision)
    output.note(f"{decision.reason} (artifact {short(chosen)}, release {snapshot.name})")
    model = load_bundle(
        bundle_of(node, chosen),
        host=host,
        release=snapshot,
        threads=threads,
        slots=slots,
        context=max_context,
    )
    holding = make_holding(model, region=region, default_task=task[0] if len(task) == 1 else None)
    answer(create_service(model, holding=holding), listening)
