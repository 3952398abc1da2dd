"""`rung node-compile`: compile a portable artifact with the node's own toolkit."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import typer

from pipeline.cli import output
from registry.errors import BuildError, ConfigurationError

ORDER = 120
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command("node-compile")
def node_compile(
    bundle: Path | None = typer.Argument(None, metavar="[BUNDLE]", help="Directory of a pulled bundle"),
    artifact: str | None = typer.Option(None, help="Instead of BUNDLE: digest of an artifact in `--node`"),
    node: Path = typer.Option(Path(), "--node", help="With --artifact: the node's directory"),
    out: Path = typer.Option(..., metavar="DIR", help="New directory for the compiled files"),
    report: Path | None = typer.Option(
        None, metavar="FILE", help="Write signed evidence for `rung evidence import`"
    ),
    key: Path | None = typer.Option(None, help="Private key to sign it with; created if missing"),
    timeout: float = typer.Option(7200.0, min=1.0, help="Time limit for each command, seconds"),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON"),
) -> None:
    """Compile a portable artifact on the node that has the toolkit.

    If the compiler fails, the report records that too, and the exit code is 4.
    """
    from compilers.portable.node_compile import node_compile as compile_here
    from matrices.cells.cell import manifest_cell_id
    from pipeline.evidence.document import EvidenceFile, Measured, write_report
    from pipeline.evidence.measure import signing_key
    from pipeline.evidence.run import describe_node
    from registry.target import find_target
    from serving.node.accelerator import chip_here
    from serving.node.directory import NodeDirectory
    from serving.node.load import read_bundle

    if (bundle is None) == (artifact is None):
        raise ConfigurationError(
            "give the directory of a bundle, or `--artifact`", hint="see `rung node-compile --help`"
        )
    if (report is None) != (key is None):
        raise ConfigurationError("`--report` and `--key` belong together", hint="give both, or neither")
    directory = bundle if bundle is not None else NodeDirectory(node).find_bundle(str(artifact))
    verified = read_bundle(directory)
    made = compile_here(verified, out=out, timeout_s=timeout)
    if report is not None and key is not None:
        signing_key(key, workspace=None, report=output.note)
        now = datetime.now(UTC)
        manifest, machine = verified.manifest, describe_node(verified.manifest.target)
        chip = chip_here(find_target(manifest.target), machine.host)
        result = Measured(
            cell=manifest_cell_id(manifest),
            artifact=manifest.digest,
            measurement=chip.measurement(runtime=manifest.format, runtime_version=None, at=now),
            compiled=made,
        )
        document = EvidenceFile(
            kit=None, target=manifest.target, node=machine, created_at=now, results=(result,)
        )
        write_report(document, path=report, private_key=key)
        output.note(f"signed evidence in {report}")
    if as_json:
        output.data(made)
    if not made.ok:
        tail = made.log_tail.strip().splitlines()[-1:] or ["it printed nothing"]
        cell = manifest_cell_id(verified.manifest)
        raise BuildError(
            f"{made.tool} {made.tool_version} does not compile {cell}: {tail[0]}",
            hint="see its output with `--json`, and the toolchain's page in docs/toolchains/",
        )
    output.note(f"{made.tool} {made.tool_version}: {len(made.outputs)} files in {out}, {made.seconds:.1f} s")
