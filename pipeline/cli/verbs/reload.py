"""`rung reload`: change a running server to the newest release."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipeline.cli import context, output
from registry.errors import NotFoundError, RegistryError

if TYPE_CHECKING:
    from serving.node.directory import NodeDirectory
    from serving.node.running import RunningServer

ORDER = 135
POLL_S = 0.1
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def reload(
    node: Path | None = typer.Option(
        None, help="The directory that the server was started with; default: this workspace's own"
    ),
    status: bool = typer.Option(
        False, "--status", help="Only say what runs, and what became of the last reload"
    ),
    wait: float = typer.Option(600.0, min=0.0, help="Seconds to wait for the reload to end"),
    as_json: bool = typer.Option(False, "--json", help="Print the servers as JSON"),
) -> None:
    """Reload every server of a node on this machine: `rung pull` first, then this.

    The new artifact is loaded beside the old one; running requests end on the old one, new ones go to the
    new. A release that cannot be served leaves the old one serving; the exit status is that of the reason.
    """
    from serving.node.directory import NodeDirectory
    from serving.node.running import running_servers

    directory = NodeDirectory(node or context.this_workspace().node)
    servers = running_servers(directory)
    if not servers:
        raise NotFoundError(
            f"no server runs here from `{directory.root}`",
            hint="start one: `rung serve`; a server that cannot write there takes SIGHUP alone",
        )
    if not status:
        for server in servers:
            _ask(server)
        servers = [_outcome(directory, server, until=time.monotonic() + wait) for server in servers]
    if as_json:
        output.data(servers)
    else:
        for server in servers:
            output.line(_line(server))
    failed = [server.reload.error for server in servers if server.reload and server.reload.error]
    if failed and not status:
        raise typer.Exit(failed[0].exit_code)


def _ask(server: RunningServer) -> None:
    try:
        server.ask_to_reload()
    except OSError as error:
        raise RegistryError(
            f"process {server.pid}, which serves `{server.url}`, cannot be asked: {error.strerror}",
            hint="run this as the user that runs the server",
        ) from error


def _outcome(directory: NodeDirectory, server: RunningServer, *, until: float) -> RunningServer:
    """The server once a reload has ended that began after `server` was read."""
    from serving.node.running import running_servers

    while time.monotonic() < until:
        now = next((one for one in running_servers(directory) if one.pid == server.pid), None)
        if now is None:
            raise NotFoundError(
                f"process {server.pid}, which served `{server.url}`, has ended", hint="see its log"
            )
        if now.ended > server.begun:
            return now
        time.sleep(POLL_S)
    raise RegistryError(
        f"the reload of process {server.pid} has not ended", hint="see `rung reload --status` later"
    )


def _line(server: RunningServer) -> str:
    line = f"{server.url} (process {server.pid}): release {server.release}, artifact {server.artifact}"
    if server.reload is None:
        return line
    line += f"\n  reload {server.reload.outcome} at {server.reload.at:%Y-%m-%d %H:%M:%S}Z"
    if server.reload.error is not None:
        line += f": {server.reload.error.message}\n  hint: {server.reload.error.hint}"
    return line
