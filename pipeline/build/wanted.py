"""What ladders ask for now: their cells, and the records that their next build would find (`rung gc`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from compilers.backend import find_toolchain
from matrices.ledger.ledger import Ledger
from pipeline.build.cell_progress import CellSteps, follow
from pipeline.build.plan import Filters, make_plan
from pipeline.build.plan_records import PlanRecords
from pipeline.build.records import Records
from pipeline.workspace.garbage import InUse
from registry.digest import digest_file
from registry.errors import ToolchainMissingError
from registry.ladder import read_ladder
from registry.mlflow import Checkpoints
from registry.store import Store


def wanted_by(
    ladder_files: Iterable[Path], *, store: Store, ledger: Ledger, checkpoints: Checkpoints
) -> InUse:
    """What ladders ask for now, up to their artifacts.

    Raises:
        ConfigurationError: A ladder is wrong.
        NotFoundError: A checkpoint is not registered.
        ToolchainMissingError: torch is not installed, so no key is known.
    """
    families, cells, keys = set[str](), set[str](), set[str]()
    for file in ladder_files:
        directory = file.resolve().parent
        plan = make_plan(read_ladder(file), directory=directory, filters=Filters(), checkpoints=checkpoints)
        records = Records(ledger, store)
        calibration = None if plan.calibration is None else digest_file(plan.calibration)
        # Evidence is kept whatever its key, so neither this machine's chip nor the tasks matter.
        found = PlanRecords(plan=plan, records=records, chip="", calibration=calibration, tasks={})
        steps = CellSteps(found, lambda name: find_toolchain(name).version())
        for checkpoint in plan.checkpoints:
            found.exported(checkpoint)
            found.probed(checkpoint)
        for planned in plan.cells:
            found.quantized(planned.checkpoint, planned.recipe)
            try:
                for _ in follow(planned, steps.to_artifact):
                    pass
            except ToolchainMissingError:
                continue  # what its cell's artifact holds is kept with the artifact
        families.add(plan.ladder.family)
        cells |= {planned.id for planned in plan.cells}
        keys |= records.used
    return InUse(frozenset(families), frozenset(cells), frozenset(keys))
