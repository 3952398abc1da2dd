"""`rung serve`: serve the best artifact over an OpenAI-compatible API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipeline.cli import context, output
from registry.digest import short
from registry.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving.node.choose import Choice, Wanted
    from serving.node.directory import NodeDirectory
    from serving.node.load import LoadedModel
    from serving.node.open import Node

ORDER = 130
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def serve(
    node: Path | None = typer.Option(
        None, help="A node's directory, filled by `rung pull`; default: this workspace's own"
    ),
    release: str | None = typer.Option(
        None, help="The release, also after reloads; default: the last pulled, or the workspace's newest"
    ),
    family: str | None = typer.Option(None, help="The family, where there are releases of several"),
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
    """Serve. Exit 7 if it cannot be loaded here, 8 if nothing may be served here as asked.

    `rung reload`, or SIGHUP, changes it to the newest release without a lost request.
    """
    from serving.contract.promise import check_region
    from serving.http.reload import Reload, on_hangup
    from serving.http.server import Address, open_socket, print_ready
    from serving.http.server import serve as answer
    from serving.http.service import create_service
    from serving.node.choose import Wanted
    from serving.node.directory import NodeDirectory
    from serving.node.open import open_node
    from serving.node.running import Announcement

    hangup = on_hangup()
    if region is not None:
        check_region(region)
    listening = open_socket(host=address, port=port)
    wanted = Wanted(tasks=tuple(task), min_tier=min_tier, artifacts=(artifact,) if artifact else ())
    workspace = context.this_workspace() if node is None else None
    directory = NodeDirectory(node or context.this_workspace().node)

    def find(family: str | None) -> Choice:
        return _choose(directory, workspace, wanted, release=release, family=family, key=key, region=region)

    def load(choice: Choice, beside: Sequence[LoadedModel] = ()) -> Node:
        return open_node(choice, threads=threads, slots=slots, context=max_context, beside=beside)

    def reopen(served: Node, loaded: Sequence[LoadedModel]) -> Node:
        found = find(served.promise.family)
        return served if served.is_of(found) else load(found, loaded)

    choice = find(family)
    chosen, name = short(choice.artifact), choice.release.name
    output.note(f"{choice.decision.reason} (artifact {chosen}, release {name})")
    opened = load(choice)
    announcement = Announcement(directory)

    def ready(at: Address) -> None:
        announcement.begin(at.url, opened.promise)
        print_ready(at)

    try:
        reload = Reload(reopen, wanted=hangup, tell=announcement.tell)
        answer(create_service(opened), listening, on_ready=ready, reload=reload, hosts=tuple(allow_host))
    finally:
        announcement.end()


def _choose(
    directory: NodeDirectory,
    workspace: Workspace | None,
    wanted: Wanted,
    *,
    release: str | None,
    family: str | None,
    key: Path | None,
    region: str | None,
) -> Choice:
    """What to serve: of a directory's releases, or of a workspace's, which is pulled first."""
    from serving.node.choose import choose

    if workspace is not None:
        from pipeline.workspace.releases import newest_release

        release = release or newest_release(workspace, family=family)
        _pull_own(workspace, release, key=key, wanted=wanted)
    return choose(directory, wanted, release=release, family=family, key=key, region=region)


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
