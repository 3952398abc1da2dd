"""Cells as MLflow runs: parameters, tags and metrics by which a person compares them in MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matrices.cells.cell import Cell
from matrices.cells.levels import evaluated_on, evidence_level
from matrices.releases.ruling import Ruling
from registry.digest import digest_value
from registry.mlflow_runs import RunRecord


def cell_run(
    cell: Cell, *, ruling: Ruling | None, checkpoint_source: str | None, parent: str | None
) -> RunRecord | None:
    """The run of a cell's artifact or of its failure; None for a cell of which nothing was made.

    Args:
        cell: The cell.
        ruling: The latest ruling on its artifact.
        checkpoint_source: `models:/m-…` of the checkpoint that it was built from.
        parent: `name/version` of that checkpoint's own parent.
    """
    if cell.artifact is None and cell.state != "failed":
        return None
    tags, metrics = _tags(cell, ruling=ruling, parent=parent), _metrics(cell)
    parameters = {
        "checkpoint": cell.checkpoint,
        "recipe": cell.recipe,
        "target": cell.target,
        "toolchain": cell.toolchain,
    }
    return RunRecord(
        subject=cell.id,
        version=cell.artifact or "",
        content=digest_value([cell.artifact, parameters, tags, metrics, checkpoint_source]),
        status="FAILED" if cell.state == "failed" else "FINISHED",
        started_at=cell.evidence[0].at if cell.evidence else cell.updated_at,
        ended_at=cell.updated_at,
        parameters=parameters,
        tags=tags,
        metrics=metrics,
        parent=checkpoint_source,
    )


def _tags(cell: Cell, *, ruling: Ruling | None, parent: str | None) -> dict[str, str]:
    on = evaluated_on(cell)
    approved = ruling is not None and cell.state == "approved"
    said: Mapping[str, str | None] = {
        "family": cell.family,
        "checkpoint": cell.checkpoint,
        "checkpoint_version": f"models:/{cell.checkpoint}",
        "checkpoint_digest": cell.checkpoint_digest,
        "parent": parent,
        "recipe": cell.recipe,
        "target": cell.target,
        "toolchain": cell.toolchain,
        "tier": _common_tier(cell),
        "state": cell.state,
        "reason": cell.reason or None,
        "evidence": evidence_level(cell),
        "build_key": cell.build_key,
        "weights": cell.variant.weights if cell.variant else None,
        "chip": on.chip if on else None,
        "runtime": f"{on.runtime} {on.runtime_version}" if on and on.runtime else None,
        "approved_by": ruling.who if approved and ruling else None,
        "waiver": ruling.waiver if approved and ruling else None,
    }
    tags = {f"rung.{name}": value for name, value in said.items() if value}
    return tags | {f"rung.tier.{one.task_type}": str(one.tier or "none") for one in cell.tasks}


def _common_tier(cell: Cell) -> str | None:
    """The tier that a cell holds for every task type; `none` if it holds none for one of them."""
    tiers = [result.tier for result in cell.tasks]
    if not tiers:
        return None
    return "none" if None in tiers else str(max(tier for tier in tiers if tier is not None))


def _metrics(cell: Cell) -> dict[str, float]:
    found: dict[str, float | None] = {"size_bytes": cell.size_bytes}
    for result in cell.tasks:
        found[f"score/{result.task_type}"] = result.accuracy
        found[f"samples/{result.task_type}"] = result.samples
        found[f"tier/{result.task_type}"] = result.tier
    if cell.parity is not None:
        found |= {
            "kl_nats": cell.parity.kl,
            "kl_variant_nats": cell.parity.kl_variant,
            "greedy_agreement": cell.parity.greedy_agreement,
            "max_logit_difference": cell.parity.max_abs,
        }
    if cell.speed is not None:
        found |= {
            "decode_tokens_per_s": cell.speed.decode_tokens_per_s,
            "prefill_tokens_per_s": cell.speed.prefill_tokens_per_s,
        }
    if cell.variant is not None:
        found |= {
            "parameters": cell.variant.parameters,
            "kv_bytes_per_token": cell.variant.kv_bytes_per_token,
        }
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}
