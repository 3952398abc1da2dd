"""From evidence that stands to the cell: its steps, its numbers, and the state that they lift it to."""

from __future__ import annotations

from typing import Final

from matrices.cells.cell import Cell, Evidence, State, TaskResult
from matrices.cells.levels import evaluated_on, evidence_level, rank
from pipeline.build.compose import summary_of
from pipeline.evidence.check import Verified
from pipeline.evidence.document import Machine, Measured

NOT_THE_ARTIFACTS: Final = frozenset(
    {
        "toolchain_missing",
        "hardware",
        "runtime",
        "timeout",
        "memory",
        "storage_full",
        "evaluation",
        "corrupt",
        "not_found",
    }
)
"""Codes of problems that say nothing of the artifact."""


def with_evidence(cell: Cell, found: Verified, *, node: Machine, by: str) -> Cell | None:
    """The cell as a node's evidence tells it; None if it tells nothing.

    Args:
        cell: As it stands.
        found: The evidence.
        node: Where it was obtained.
        by: Who signed it, for people.
    """
    return _Grown(cell, found, node, by).cell()


class _Grown:
    """A cell that takes one step after the other."""

    def __init__(self, cell: Cell, found: Verified, node: Machine, by: str) -> None:
        self.before = cell
        self.one: Measured = found.measured
        self.results = tuple(judged.result for judged in found.judged)
        self.asked = {task.task_type for task in found.kit.tasks} if found.kit else set()
        self.node = node
        self.by = by
        self.steps: list[Evidence] = []
        self.state: State | None = None
        self.changes: dict[str, object] = {}

    def cell(self) -> Cell | None:
        self.compiled()
        self.verified()
        self.evaluated()
        self.timed()
        self.failed()
        if not self.steps:
            return None
        if self.state is None or (self.state != "failed" and not self.lifts(self.state)):
            ruled = self.before.state in ("approved", "rejected", "withdrawn")
            self.state = _level(self.before) if ruled else self.before.state
            self.changes.pop("reason", None)
        self.changes |= {
            "state": self.state,
            "evidence": (*self.before.evidence, *self.steps),
            "updated_at": max(self.one.at, self.before.updated_at),
        }
        return self.before.model_copy(update=self.changes)

    def compiled(self) -> None:
        made = self.one.compiled
        if made is None or not made.ok:
            return
        self.state = "built"
        files = ", ".join(file.path for file in made.outputs[:4])
        self.step("built", f"compiled on the node by {made.tool} {made.tool_version}: {files}", runs=False)
        self.changes["reason"] = f"compiled on its node by {made.tool} {made.tool_version}"

    def verified(self) -> None:
        if self.one.verify is None:
            return
        parity = self.one.verify.parity
        self.state = "close" if parity.within else "loads"
        self.step("loads", "")
        if parity.within:
            self.step("close", parity.reason)
        self.changes |= {"parity": parity, "reason": "" if parity.within else parity.reason}

    def evaluated(self) -> None:
        for result in self.results:
            self.step("evaluated", summary_of(result))
        kept = self.kept_results()
        if self.results or kept != self.before.tasks:
            tasks = (*kept, *self.results)
            self.changes["tasks"] = tuple(sorted(tasks, key=lambda result: result.task_type))
        known = {result.task_type for result in (*kept, *self.results)}
        if self.state == "close" and self.results and self.asked <= known:
            self.state = "evaluated"

    def kept_results(self) -> tuple[TaskResult, ...]:
        """Results of task types that were not measured anew, where they are of the same runtime and stand."""
        entry = evaluated_on(self.before)
        if entry is None or self.before.state == "expired":
            return ()
        if self.results and entry.runtime_version != self.one.runtime_version:
            return ()
        new = {result.task_type for result in self.results}
        return tuple(result for result in self.before.tasks if result.task_type not in new)

    def timed(self) -> None:
        if self.one.speed is None:
            return
        speed = self.one.speed.speed
        rates = f"decode {speed.decode_tokens_per_s:.1f}, prefill {speed.prefill_tokens_per_s:.1f} tokens/s"
        self.step("benchmarked", rates)
        self.changes["speed"] = speed
        if self.state == "evaluated":
            self.state = "benchmarked"

    def failed(self) -> None:
        why = self.failure()
        if why is None:
            return
        self.state, self.changes["reason"] = "failed", f"on {self.node.chip}: {why}"
        self.step("failed", why, runs=False)

    def failure(self) -> str | None:
        """Why the artifact fails there; None if it does not, or if another chip's evidence stands."""
        made, problem = self.one.compiled, self.one.problem
        if made is not None and not made.ok:
            tail = made.log_tail.strip().splitlines()[-1:] or ["it printed nothing"]
            why = f"{made.tool} {made.tool_version} does not compile it: {tail[0]}"
        elif problem is not None and self.one.verify is None and problem.code not in NOT_THE_ARTIFACTS:
            why = f"{problem.message} ({problem.hint})"
        else:
            return None
        standing = evaluated_on(self.before)
        stands = standing is not None and self.before.state not in ("failed", "expired")
        return None if stands and standing is not None and standing.chip != self.node.chip else why

    def lifts(self, state: State) -> bool:
        """Whether a step is as high as the cell's own evidence reaches, or that does not stand."""
        if self.before.state in ("failed", "expired"):
            return True
        here, there = rank(_level(self.before)), rank(state)
        return here is None or (there is not None and there >= here)

    def step(self, state: State, detail: str, *, runs: bool = True) -> None:
        version = self.one.runtime_version if runs else None
        self.steps.append(
            Evidence(
                state=state,
                digest=self.one.artifact,
                runtime=self.one.runtime if version else None,
                runtime_version=version,
                chip=self.node.chip,
                driver=self.node.driver,
                at=self.one.at,
                detail=f"{detail}; {self.by}" if detail else self.by,
            )
        )


def _level(cell: Cell) -> State:
    return evidence_level(cell) or "declared"
