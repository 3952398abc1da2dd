"""Expiry: evidence that was obtained with other versions than are in use is marked so, with the reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from matrices.cells.cell import Cell
from matrices.cells.expiry import Versions, expired
from matrices.cells.levels import evaluated_on, rehearsed_by
from matrices.ledger import query
from matrices.ledger.db import Database
from matrices.ledger.ledger import Ledger
from pipeline.workspace.installed import installed_toolchains
from registry.artifact import Manifest
from registry.errors import RungError
from registry.host import Host
from registry.store import Store
from registry.target import targets
from serving.node.accelerator import chip_here
from serving.node.host import installed_runtimes, this_host


@dataclass(frozen=True, slots=True)
class Expiry:
    """A cell whose evidence does not hold any more."""

    cell: Cell
    why: str


def find_expired(
    database: Database, *, store: Store, versions: Versions | None, target: str | None = None
) -> list[Expiry]:
    """Cells whose evidence is of other versions than are in use.

    Args:
        database: The matrix.
        store: Where manifests are, which name toolchains' versions.
        versions: What is in use wherever the cells ran; None: what this machine has, for the cells that were
            measured on this very chip, and its toolchains for all.
        target: Only this one's cells.
    """
    found = []
    host = this_host()
    here = None if versions is not None else _here(host)
    for cell in query.cells(database, target=target):
        if cell.state in ("expired", "failed", "rejected", "withdrawn"):
            continue
        used = versions if here is None else _for(cell, here, host)
        why = None if used is None else expired(cell, versions=used, manifest=_manifest(cell, store))
        if why is not None:
            found.append(Expiry(cell, why))
    return found


def expire_all(found: Iterable[Expiry], *, ledger: Ledger) -> list[Cell]:
    """Mark cells as expired; approved ones lose their approval."""
    return [ledger.expire(one.cell.id, why=one.why) for one in found]


def _here(host: Host) -> Versions:
    toolchains = {name: each for name, each in installed_toolchains().items() if isinstance(each, str)}
    drivers: dict[str, str] = {}
    for target in targets().values():
        chip = chip_here(target, host) if target.kind != "cpu" else None
        if chip is not None and chip.driver is not None:
            drivers[chip.name] = chip.driver
    return Versions(runtimes=installed_runtimes(), drivers=drivers, toolchains=toolchains)


def _for(cell: Cell, here: Versions, host: Host) -> Versions:
    """Runtimes of this machine say something of what ran on this machine alone."""
    entry = evaluated_on(cell) or rehearsed_by(cell)
    on_this_chip = entry is not None and entry.chip in (host.chip, *here.drivers)
    return here if on_this_chip else Versions(toolchains=here.toolchains)


def _manifest(cell: Cell, store: Store) -> Manifest | None:
    if cell.artifact is None:
        return None
    try:
        return store.find_artifact(cell.artifact)
    except RungError:
        return None
