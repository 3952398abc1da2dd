"""How far one cell has come in a build: filled by the build's nodes, read to compose the cell."""

from __future__ import annotations

from dataclasses import dataclass, field

from compilers.toolchain import Unsupported
from matrices.ledger.build_records import BuildRecord
from pipeline.build.plan import PlannedCell
from pipeline.stages.quantize import QuantizeOutput
from registry.artifact import Manifest


@dataclass(slots=True)
class CellProgress:
    """How far one cell has come in this build; filled as its nodes are prepared."""

    planned: PlannedCell
    unsupported: Unsupported | None = None
    variant: QuantizeOutput | None = None
    lowered: BuildRecord | None = None
    manifest: Manifest | None = None
    proof_key: str = ""
    """Key of the record that says what the compiled files hold."""
    rehearse_key: str = ""
    """Key of the record of a run by other means than the target; empty: it runs here itself."""
    not_rehearsed: str = ""
    """Why no emulator or stand-in was asked, where one could have been."""
    cannot_run: tuple[str, ...] = ()
    """What this machine lacks to run the artifact; the cell then stays `built`."""
    verify_key: str = ""
    evaluate_keys: dict[str, str] = field(default_factory=dict)
    """Task type → key."""
