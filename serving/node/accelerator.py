"""The chip of a host that runs a target's code, and the version of its driver, for evidence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from matrices.cells.measurement import Measurement
from registry.host import Host
from registry.target import Target, accelerator_for


@dataclass(frozen=True, slots=True)
class ChipHere:
    """What evidence names."""

    name: str
    driver: str | None = None
    """None for processors, and where no tool says it."""

    def measurement(
        self, *, runtime: str, runtime_version: str | None, at: datetime | None = None
    ) -> Measurement:
        """The provenance of what was measured on this chip (`at`; None: now) with a runtime."""
        return Measurement(
            runtime=runtime,
            runtime_version=runtime_version,
            chip=self.name,
            driver=self.driver,
            at=at or datetime.now(UTC),
        )


def chip_here(target: Target, host: Host) -> ChipHere:
    """The chip of a host that runs a target's code; the processor where no accelerator does."""
    one = accelerator_for(target, host) if target.kind != "cpu" else None
    return ChipHere(host.chip) if one is None else ChipHere(one.chip, one.driver)
