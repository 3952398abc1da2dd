"""Read the matrix: the tables, cell pages and comparisons that the command line and web pages show.

`Board` joins what the ledger stores separately: cells, evidence, rulings and releases, with proxies and
throughput. It never writes; people's rulings go through `matrices/ledger/ledger.py`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from matrices.cells.cell import Cell, task_types
from matrices.cells.missing import missing_evidence
from matrices.cells.proxy import proxies
from matrices.chips.throughput import cell_throughput
from matrices.ledger import query
from matrices.ledger.db import Database
from matrices.releases.ruling import Ruling
from matrices.views.cell_page import CellPage
from matrices.views.diff import Diff, diff_cells, diff_releases
from registry.errors import ConfigurationError, NotFoundError

WILDCARDS: Final = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class MatrixPage:
    """The cells of a table, and people's rulings on them."""

    cells: tuple[Cell, ...]
    rulings: Mapping[str, Ruling]
    """Cell id → the latest ruling on the artifact that the cell has now."""


@dataclass(frozen=True, slots=True)
class Board:
    """The matrix of a database, for reading."""

    database: Database

    def matrix(
        self,
        *,
        family: str | None = None,
        checkpoint: str | None = None,
        recipe: str | None = None,
        target: str | None = None,
        toolchain: str | None = None,
        state: str | None = None,
    ) -> MatrixPage:
        """The cells that match every filter given, with their rulings."""
        found = query.cells(
            self.database,
            family=family,
            checkpoint=checkpoint,
            recipe=recipe,
            target=target,
            toolchain=toolchain,
            state=state,
        )
        return MatrixPage(tuple(found), query.rulings(self.database, family=family))

    def cell_page(self, name: str) -> CellPage:
        """Everything known about one cell.

        Args:
            name: An id or unambiguous parts of it, as `matrices.ledger.query.find_cell` accepts them.

        Raises:
            NotFoundError: No cell has that name.
            ConfigurationError: Several cells match.
        """
        cell = query.find_cell(self.database, name)
        family = query.cells(self.database, family=cell.family)
        return CellPage(
            cell=cell,
            history=tuple(query.history(self.database, cell.id)),
            tasks=task_types(family),
            releases=tuple(query.releases_with(self.database, cell=cell.id)),
            proxy=proxies(family).get(cell.id),
            throughput=cell_throughput(cell),
        )

    def family_tasks(self, family: str) -> tuple[str, ...]:
        """Task types on which any cell of the family was evaluated, sorted."""
        return task_types(query.cells(self.database, family=family))

    def approvable(self, family: str | None) -> list[Cell]:
        """Cells that can be approved now without a waiver.

        Args:
            family: Only this family; None: every family.

        Raises:
            NotFoundError: No cell has enough evidence, and none is approved already.
        """
        everything = query.cells(self.database, family=family)
        tasks = {
            name: task_types(cell for cell in everything if cell.family == name)
            for name in {cell.family for cell in everything}
        }
        found = [
            cell
            for cell in everything
            if cell.state in ("evaluated", "benchmarked")
            and not missing_evidence(cell, tasks=tasks[cell.family])
        ]
        if not found and not any(cell.state == "approved" for cell in everything):
            raise NotFoundError(
                "no cell has enough evidence to be approved",
                hint="`rung matrix explain CELL` says what is missing",
            )
        return found

    def cells_named(self, names: Iterable[str]) -> list[Cell]:
        """The cells that ids, parts of ids and shell patterns match, each once, in the order given.

        Raises:
            NotFoundError: A name or pattern matches no cell.
            ConfigurationError: A name that is not a pattern matches several.
        """
        chosen: dict[str, Cell] = {}
        for name in names:
            for cell in self._matching(name):
                chosen[cell.id] = cell
        return list(chosen.values())

    def compare(self, before: str, after: str) -> Diff:
        """What changed between two checkpoint versions (`NAME/VERSION`) or two releases.

        Raises:
            ConfigurationError: One is a checkpoint, the other a release.
            NotFoundError: There is no such release, or no cell of such a checkpoint.
        """
        match "/" in before, "/" in after:
            case True, True:
                return diff_cells(self._cells_of(before), self._cells_of(after), names=(before, after))
            case False, False:
                return diff_releases(
                    query.release(self.database, before), query.release(self.database, after)
                )
            case _:
                raise ConfigurationError(
                    f"`{before}` and `{after}` are not of the same kind",
                    hint="give two checkpoint versions or two releases",
                )

    def _cells_of(self, checkpoint: str) -> list[Cell]:
        found = query.cells(self.database, checkpoint=checkpoint)
        if not found:
            raise NotFoundError(
                f"no cells of checkpoint `{checkpoint}`", hint="`rung matrix show` lists what there is"
            )
        return found

    def _matching(self, name: str) -> list[Cell]:
        if not WILDCARDS & set(name):
            return [query.find_cell(self.database, name)]
        found = [cell for cell in query.cells(self.database) if fnmatch.fnmatchcase(cell.id, name)]
        if not found:
            raise NotFoundError(f"no cell matches `{name}`", hint="`rung matrix show` lists them")
        return found
