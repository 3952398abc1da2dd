"""`rung evidence`: get evidence from nodes: export, run, import, trust, refresh."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipeline.cli import context, output
from registry.errors import ConfigurationError, RungError

if TYPE_CHECKING:
    from matrices.cells.expiry import Versions
    from pipeline.evidence.document import Measured
    from pipeline.evidence.run import RunSettings
    from registry.workspace import Workspace

ORDER = 110
app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def evidence() -> None:
    """Get evidence from the machines that have the hardware, as signed files."""


@app.command()
def export(
    ladder: Path = typer.Argument(metavar="LADDER", help="The ladder whose artifacts need evidence"),
    target: str = typer.Option(..., help="Only artifacts of this target"),
    out: Path | None = typer.Option(
        None, metavar="KIT", help="Directory to carry to the node; default: only publish it in the workspace"
    ),
    everything: bool = typer.Option(False, "--all", help="Also artifacts whose evidence is complete"),
    as_json: bool = typer.Option(False, "--json", help="Print the kit's index as JSON"),
) -> None:
    """Make a kit: a target's pending artifacts, probes, references, tasks and bars, with a signed index.

    Without `--out` a node takes it from the workspace's `.rung/`, by `--from` over a mount or HTTP.
    """
    from pipeline.evidence.export import export_kit, issue_kit, make_ladder_kit
    from registry.digest import short

    workspace = context.this_workspace()
    kit = make_ladder_kit(ladder, target=target, workspace=workspace, everything=everything)
    where = (
        issue_kit(kit, workspace=workspace) if out is None else export_kit(kit, workspace=workspace, out=out)
    )
    if as_json:
        output.data(kit)
    output.note(f"kit {short(kit.digest)} for {target}: {len(kit.subjects)} artifacts, signed, in {where}")


@app.command()
def run(
    target: str = typer.Option(..., help="The target whose hardware this machine has"),
    out: Path = typer.Option(..., metavar="FILE", help="The evidence file to write"),
    kit: Path | None = typer.Option(None, metavar="KIT", help="A kit's directory"),
    source: str | None = typer.Option(
        None,
        "--from",
        metavar="DIR|URL",
        help="Where kits are published: a workspace's `.rung/`, or a mirror",
    ),
    ladder: Path | None = typer.Option(
        None, metavar="LADDER", help="Instead of a kit: this workspace's own artifacts of the ladder"
    ),
    key: Path | None = typer.Option(
        None, help="Private key to sign with; created if missing; default in a workspace: its own"
    ),
    trusted: Path | None = typer.Option(
        None, help="Public key that the kit must be signed with; default in a workspace: its own"
    ),
    work: Path | None = typer.Option(
        None, help="Directory from which a killed run resumes; default: beside FILE"
    ),
    only: list[str] = typer.Option(
        [], metavar="PART", help="parity, speed or quality; repeatable; default: all"
    ),
    cell: list[str] = typer.Option([], help="Only these cells, by full id; repeatable"),
    everything: bool = typer.Option(False, "--all", help="With --ladder: also those with complete evidence"),
    threads: int = typer.Option(1, min=1, help="Threads of each runtime"),
    timeout: float = typer.Option(7200.0, min=1.0, help="Time limit for one artifact, seconds"),
    allow_code: list[str] = typer.Option(
        [], metavar="DIGEST", help="Let the code of task files with this digest run here; repeatable"
    ),
    as_json: bool = typer.Option(False, "--json", help="Print what was measured as JSON"),
) -> None:
    """Measure artifacts on the machine that has the hardware; write one signed file.

    Checks how it executes, parity with torch's logits, speed and quality. A failure is recorded in the file
    and the rest continues. Needs `rung[serve]`, and `rung[eval]` for quality; neither torch nor a database.
    """
    from pipeline.evidence.measure import OwnArtifacts, PublishedKit, measure

    location = str(kit) if kit is not None else source
    what: PublishedKit | OwnArtifacts
    match location, ladder:
        case str(), None if kit is None or source is None:
            what = PublishedKit(location, trusted)
        case None, Path():
            what = OwnArtifacts(ladder, everything)
        case _:
            raise ConfigurationError(
                "give one of `--kit`, `--from` and `--ladder`", hint="see `rung evidence run --help`"
            )
    report = measure(
        what,
        target=target,
        out=out,
        key=key,
        work=work,
        settings=replace(
            _settings(only, threads=threads, timeout_s=timeout, cells=cell), allow_code=tuple(allow_code)
        ),
        workspace=_own_workspace(),
        report=output.note,
    )
    if as_json:
        output.data(report.model_copy(update={"results": _without_outcomes(report.results)}))
    measured = sum(one.problem is None for one in report.results)
    output.note(f"{measured} of {len(report.results)} artifacts measured on {report.node.chip}: {out}")
    for one in report.results:
        if one.problem is not None:
            output.note(f"{one.cell}: {one.problem.code}: {one.problem.message} ({one.problem.hint})")
    if report.quality == "lm-eval is not installed":
        output.note("quality was not measured: lm-eval is not installed (`pip install 'rung[eval]'`)")


@app.command("import")
def import_(
    file: list[Path] = typer.Argument(metavar="FILE...", help="Evidence files from nodes"),
    key: list[Path] = typer.Option([], help="Accept this public key too, this time only; repeatable"),
    as_json: bool = typer.Option(False, "--json", help="Print the updated cells as JSON"),
) -> None:
    """Verify evidence files and record them. If one is refused, nothing is written (exit 8)."""
    from pipeline.evidence.import_report import import_reports
    from pipeline.evidence.trust import trusted_keys
    from pipeline.workspace.locks import writing
    from registry.digest import short

    workspace = context.this_workspace()
    keys = [*trusted_keys(workspace), *key]
    with writing(workspace):
        database = context.database(workspace)
        imported = import_reports(
            file,
            workspace=workspace,
            database=database,
            trusted=keys,
            at=datetime.now(UTC),
            say=output.note,
        )
    if as_json:
        output.data([cell for one in imported for cell in one.cells])
    for one in imported:
        output.note(
            f"{one.path}: {len(one.cells)} cells of {one.report.target} on {one.report.node.chip}, "
            f"report {short(one.report.digest)}, signed with {one.key.name}"
        )
        if one.rechecked.marked:
            output.note(
                f"  {one.rechecked.marked} scorecards marked again from their responses, "
                f"{one.rechecked.rerun} samples run again here"
            )
        for cell in one.cells:
            output.note(f"  {cell.id}: {cell.state}" + (f": {cell.reason}" if cell.reason else ""))
        for text in one.notes:
            output.note(f"  {text}")


@app.command()
def trust(
    key: Path | None = typer.Argument(None, metavar="[KEY]", help="A node's public key, a PEM file"),
    name: str | None = typer.Option(None, help="Name of the node; default: the file's"),
    remove: str | None = typer.Option(None, metavar="NAME", help="Stop trusting this node"),
) -> None:
    """Trust a node's key. Without KEY, list the trusted keys."""
    from pipeline.evidence.trust import add_key, remove_key, trusted_keys
    from registry.signing import fingerprint

    workspace = context.this_workspace()
    if remove is not None:
        remove_key(workspace, remove)
    if key is not None:
        added = add_key(workspace, key, name=name)
        output.note(f"evidence signed with {fingerprint(added)[7:19]} is accepted from now on ({added})")
    elif remove is None:
        for one in trusted_keys(workspace):
            output.line(f"{fingerprint(one)[7:19]}  {one}")


@app.command()
def refresh(
    runtime: list[str] = typer.Option([], metavar="NAME=VERSION", help="A runtime in use; repeatable"),
    driver: list[str] = typer.Option([], metavar="CHIP=VERSION", help="A driver in use; repeatable"),
    toolchain: list[str] = typer.Option([], metavar="NAME=VERSION", help="A toolchain in use; repeatable"),
    target: str | None = typer.Option(None, help="Only cells of this target"),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would expire; write nothing"),
    as_json: bool = typer.Option(False, "--json", help="Print what expired as JSON"),
) -> None:
    """Mark evidence as expired that was obtained with versions other than those in use.

    By default the versions in use are this machine's: its runtimes and drivers for what was measured on this
    chip, its toolchains for every artifact. Approved cells lose their approval.
    """
    from pipeline.evidence.refresh import expire_all, find_expired

    workspace = context.this_workspace()
    database = context.database(workspace)
    versions = _versions(runtime, driver, toolchain)
    found = find_expired(database, store=workspace.store, versions=versions, target=target)
    if not dry_run:
        expire_all(found, ledger=context.ledger(database))
    if as_json:
        output.data([{"cell": one.cell.id, "was": one.cell.state, "why": one.why} for one in found])
    for one in found:
        output.note(f"{'would expire' if dry_run else 'expired'} {one.cell.id}: {one.why}")
    if not found:
        output.note("no evidence has expired")


def _settings(only: list[str], *, threads: int, timeout_s: float, cells: list[str]) -> RunSettings:
    from pipeline.evidence.run import PARTS, RunSettings

    parts = tuple(part for part in PARTS if part in only)
    if len(parts) != len(set(only)):
        unknown = next(name for name in only if name not in PARTS)
        raise ConfigurationError(
            f"`--only {unknown}` is not a part of a run",
            hint="give " + ", ".join(f"`{one}`" for one in PARTS),
        )
    return RunSettings(parts=parts or PARTS, threads=threads, timeout_s=timeout_s, cells=tuple(cells))


def _versions(runtime: list[str], driver: list[str], toolchain: list[str]) -> Versions | None:
    from matrices.cells.expiry import Versions

    if not (runtime or driver or toolchain):
        return None
    return Versions(
        runtimes=_pairs(runtime, option="--runtime"),
        drivers=_pairs(driver, option="--driver"),
        toolchains=_pairs(toolchain, option="--toolchain"),
    )


def _pairs(texts: list[str], *, option: str) -> dict[str, str]:
    found = {}
    for text in texts:
        name, _, version = text.rpartition("=")
        if not name or not version:
            raise ConfigurationError(
                f"`{option} {text}` is not NAME=VERSION", hint="quote it if it contains spaces"
            )
        found[name] = version
    return found


def _own_workspace() -> Workspace | None:
    try:
        return context.this_workspace()
    except RungError:
        return None


def _without_outcomes(results: tuple[Measured, ...]) -> tuple[Measured, ...]:
    return tuple(
        one.model_copy(
            update={
                "scorecards": tuple(
                    card.model_copy(update={"outcomes": (), "responses": None}) for card in one.scorecards
                )
            }
        )
        for one in results
    )
