"""`rung pull`: pull the artifacts of a release to a node, verified."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from matrices.cells.cell import manifest_cell_id
from pipeline.cli import context, output
from pipeline.cli.console import CleanConsole
from registry.digest import short
from serving.node.choose import Wanted
from serving.node.directory import NodeDirectory
from serving.node.host import read_host, read_runtimes, this_host
from serving.node.pull import Progress as Pulling
from serving.node.pull import pull_wanted
from serving.node.source import find_source

ORDER = 100
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def pull(
    release: str = typer.Argument(help="Name of the release"),
    out: Path = typer.Option(..., help="The node's directory"),
    source: str | None = typer.Option(
        None,
        "--from",
        help="Directory or http(s) URL that holds `releases/` and `store/`; default: this workspace",
    ),
    key: Path | None = typer.Option(
        None, help="The public key to trust; default: the node's, or else the workspace's"
    ),
    task: list[str] = typer.Option([], help="Task type to serve; repeatable; default: all of the release"),
    min_tier: int | None = typer.Option(
        None, min=1, help="The lowest tier that will do; default: the ladder's last"
    ),
    artifact: list[str] = typer.Option(
        [], help="These artifacts (digest or cell id) instead of the one chosen for this host"
    ),
    everything: bool = typer.Option(False, "--all", help="All artifacts of the release"),
    host: Path | None = typer.Option(
        None, help="Facts of another host: a file with what `rung doctor --json` prints there"
    ),
    allow_older: bool = typer.Option(
        False,
        "--allow-older",
        help="Go back to a release that is older than one that the node has had; recorded",
    ),
    replace_key: bool = typer.Option(
        False, "--replace-key", help="Trust `--key` instead of the key that the node trusts; recorded"
    ),
    as_json: bool = typer.Option(False, "--json", help="Print what was pulled as JSON"),
) -> None:
    """Pull a release and its artifacts. Resumable, verified by signature and digest, atomic.

    Refused (exit 8) if the node has had a newer release, trusts another key, or the release has expired.
    """
    node = NodeDirectory(out)
    machine = this_host() if host is None else read_host(host)
    wanted = Wanted(tasks=tuple(task), min_tier=min_tier, artifacts=tuple(artifact), everything=everything)
    console = CleanConsole(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(release, total=None)

        def show(state: Pulling) -> None:
            progress.update(bar, description=state.file, completed=state.done_bytes, total=state.total_bytes)

        pulled = pull_wanted(
            release,
            source=find_source(source if source is not None else context.this_workspace().state),
            public_key=key if key is not None else _trusted(node),
            into=node,
            wanted=wanted,
            host=machine,
            runtimes=None if host is None else read_runtimes(host),
            report=show,
            allow_older=allow_older,
            replace_key=replace_key,
        )
    for bundle in pulled.bundles:
        manifest = bundle.manifest
        output.note(f"pulled {manifest_cell_id(manifest)} ({short(manifest.digest)})")
    if as_json:
        output.data(
            {
                "release": pulled.release.digest,
                "bundles": {b.manifest.digest: str(b.path) for b in pulled.bundles},
            }
        )


def _trusted(node: NodeDirectory) -> Path:
    return node.trusted_key if node.trusted_key.is_file() else context.this_workspace().public_key
