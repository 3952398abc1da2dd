"""`rung serve`: serve the best artifact over an OpenAI-compatible API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipeline.cli import context, output
from registry.digest import short
from registry.workspace import Workspace

if TYPE_CHECKING:
    from serving.node.choose import Wanted

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
    task: list[str] = typer.Option([], help="Task type to serve; repeatable; default: all of the release"),
    min_tier: int | None = typer.Option(
        None, min=1, help="The lowest acceptable tier; default: the ladder's last"
    ),
    artifact: str | None = typer.Option(None, help="Serve only this artifact: digest or cell id"),
    region: str | None = typer.Option(
        None, help="Region of this node (letters, digits, `-`, `_`, `.`); named in every answer"
    ),
    key: Path | None = typer.Option(None, help="The public key to trust; default: the one given at the pull"),
    address: str = typer.Option("127.0.0.1", help="Address to listen on"),
    port: int = typer.Option(8421, help="Port to listen on; 0: any free port"),
    allow_host: list[str] = typer.Option(
        [],
        help="Answer only to this name in `Host` and `Origin` and to those of loopback; repeatable; "
        "default: on loopback no other, elsewhere any",
    ),
    threads: int = typer.Option(1, min=1, help="Threads of the runtime"),
    slots: int | None = typer.Option(
        None, min=1, help="Sequences that run together; default: as many as fit, at most 8"
    ),
    max_context: int | None = typer.Option(
        None, min=1, help="Tokens of one sequence; default: the checkpoint's, or what fits"
    ),
) -> None:
    """Serve. Exit 7 if it cannot be loaded here, 8 if nothing may be served here as asked."""
    from serving.contract.promise import check_region
    from serving.http.server import open_socket
    from serving.http.server import serve as answer
    from serving.http.service import create_service
    from serving.node.choose import Wanted, choose
    from serving.node.directory import NodeDirectory
    from serving.node.open import open_node

    if region is not None:
        check_region(region)
    listening = open_socket(host=address, port=port)
    wanted = Wanted(tasks=tuple(task), min_tier=min_tier, artifacts=(artifact,) if artifact else ())
    if node is None:
        from pipeline.workspace.releases import newest_release

        workspace = context.this_workspace()
        release = release or newest_release(workspace, family=family)
        node = workspace.node
        _pull_own(workspace, release, key=key, wanted=wanted)
    choice = choose(NodeDirectory(node), wanted, release=release, key=key, region=region)
    chosen, name = short(choice.artifact), choice.release.name
    output.note(f"{choice.decision.reason} (artifact {chosen}, release {name})")
    opened = open_node(choice, threads=threads, slots=slots, context=max_context)
    answer(create_service(opened), listening, hosts=tuple(allow_host))


def _pull_own(workspace: Workspace, release: str, *, key: Path | None, wanted: Wanted) -> None:
    """Pull a release of the workspace into the workspace's own node."""
    from serving.node.directory import NodeDirectory
    from serving.node.host import this_host
    from serving.node.pull import pull_wanted
    from serving.node.source import find_source

    pull_wanted(
        release,
        source=find_source(workspace.state),
        public_key=key or workspace.public_key,
        into=NodeDirectory(workspace.node),
        wanted=wanted,
        host=this_host(),
    )
