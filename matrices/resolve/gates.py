"""The gates of resolution: pure rules that an offer passes, fails, or leaves open for want of a fact.

Each says why in one sentence with the values. `matrices/resolve/resolve.py` gives their order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from matrices.cells.cell import LADDER, State
from matrices.cells.levels import demand_unmet, evaluated_on
from matrices.releases.release import ReleasedCell
from matrices.resolve.candidate import Candidate
from matrices.resolve.request import Request
from registry.digest import short
from registry.host import Host
from registry.target import Target, missing_features, targets

USABLE_SHARE: Final = 0.9
"""Share of a host's memory that an artifact may take; the rest is the operating system's."""
_ARCHITECTURES: Final = ("unknown", "")


@dataclass(frozen=True, slots=True)
class GateResult:
    """What a gate found."""

    outcome: Literal["pass", "deny", "indeterminate"]
    reason: str = ""


PASS: Final = GateResult("pass")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is asked for, and of what machine."""

    request: Request
    host: Host
    runtimes: Mapping[str, str] | None
    """Installed runtime → version; None: not known."""


def pin_gate(offer: Candidate, question: Facts) -> GateResult:
    """Where the request names an artifact, it is that one."""
    pinned = question.request.artifact
    if pinned is None or (offer.released and offer.released.manifest.digest == pinned):
        return PASS
    return _deny(f"is not the artifact {short(pinned)} that was asked for")


def hardware_gate(offer: Candidate, question: Facts) -> GateResult:
    """The host has what the target's code uses, and the artifact's runtime is installed."""
    host = question.host
    target = targets().get(offer.target)
    if target is None:
        return _unknown(f"this version of Rung does not know the target `{offer.target}`")
    if target.kind == "cpu" and host.architecture in _ARCHITECTURES:
        return _unknown("the host's architecture is not known")
    if lacking := missing_features(host, target=target):
        return _lacks(lacking, target=target, host=host)
    return PASS if offer.released is None else _runtime_installed(offer.released, question)


def evidence_gate(offer: Candidate, question: Facts) -> GateResult:
    """It has the evidence that the release demands, of this very artifact and version of its runtime."""
    if offer.released is None:
        return _evidence_of_other(offer)
    cell, manifest = offer.released.cell, offer.released.manifest
    if cell.artifact != manifest.digest:
        return _deny(
            f"its evidence is of the artifact {short(cell.artifact or 'none')}, not {short(manifest.digest)}"
        )
    if unmet := demand_unmet(cell, demanded=offer.demanded):
        return _deny(unmet)
    entry = evaluated_on(cell)
    if entry is None and offer.demanded not in (None, "evaluated", "benchmarked"):
        return PASS  # the release asks for no more; that no tier was earned is the quality gate's
    if entry is None:
        return _deny("no evaluation of this artifact names the version of its runtime")
    if question.runtimes is None:
        return _unknown(f"the installed version of `{manifest.format}` is not known")
    installed = question.runtimes.get(manifest.format)
    if installed is None:
        return (
            PASS  # no version differs from the evaluated one; the hardware gate refuses what is not installed
        )
    if (entry.runtime, entry.runtime_version) != (manifest.format, installed):
        was = f"{entry.runtime} {entry.runtime_version}"
        return _deny(f"its evidence expired: evaluated on {was}, installed is {manifest.format} {installed}")
    return PASS


def quality_gate(offer: Candidate, question: Facts) -> GateResult:
    """It earned the least tier asked for, or a better one, for every task type asked for."""
    request = question.request
    for task in request.tasks:
        if task not in offer.earned:
            return _deny(f"was never evaluated for `{task}`")
        tier = offer.earned[task]
        if tier is None:
            return _deny(f"earned no tier for `{task}`{_best_verdict(offer, task)}")
        if tier > request.min_tier:
            return _deny(f"earned tier {tier} for `{task}`, asked for is {request.min_tier} or better")
    return PASS


def approval_gate(offer: Candidate, _: Facts) -> GateResult:
    """A person approved this very artifact, and it is in the release."""
    if offer.released is None:
        state = offer.other.state if offer.other else "unknown"
        why = f": {offer.other.reason}" if offer.other and offer.other.reason else ""
        return _deny(f"is not in the release ({state}{why})")
    cell, approval = offer.released.cell, offer.released.approval
    if cell.state != "approved":
        return _deny(f"is {cell.state}, not approved")
    if approval.artifact != offer.released.manifest.digest:
        return _deny(f"was approved as the artifact {short(approval.artifact)}, which this is not")
    return PASS


def capacity_gate(offer: Candidate, question: Facts) -> GateResult:
    """Weights and KV cache fit in the host's memory, and the conversation in the checkpoint's context."""
    if offer.released is None:
        return PASS  # its size is not in the release; the approval gate refuses it
    facts, host = offer.released.manifest.facts, question.host
    context = offer.context_tokens(question.request) or facts.max_context
    if context > facts.max_context:
        return _deny(f"holds {facts.max_context} tokens of context, asked for are {context}")
    target = targets().get(offer.target)
    if target is None or target.kind != "cpu":
        return _unknown(f"the memory that `{offer.target}` has on the host is not known")
    if host.memory_bytes <= 0:
        return _unknown("the host's memory is not known")
    needed, usable = offer.memory_bytes(question.request) or 0, int(host.memory_bytes * USABLE_SHARE)
    if needed > usable:
        batch = question.request.batch
        load = f"{needed / 1e6:,.1f} MB for {batch} × {context} tokens of context"
        return _deny(f"needs {load}, the host can give {usable / 1e6:,.1f} MB")
    return PASS


def _deny(reason: str) -> GateResult:
    return GateResult("deny", reason)


def _unknown(reason: str) -> GateResult:
    return GateResult("indeterminate", reason)


def _lacks(lacking: tuple[str, ...], *, target: Target, host: Host) -> GateResult:
    if target.kind != "cpu":
        here = ", ".join(each.architecture for each in host.accelerators) or "no accelerator"
        return _deny(f"`{target.name}` needs {lacking[0]}, the host has {here}")
    if target.architecture != host.architecture:
        return _deny(f"`{target.name}` is for {target.architecture}, the host is {host.architecture}")
    if not host.features:
        return _unknown("the host's processor flags are not known")
    return _deny(f"`{target.name}` needs {', '.join(lacking)}, which the host lacks")


def _runtime_installed(released: ReleasedCell, question: Facts) -> GateResult:
    needed = released.manifest.format
    if question.runtimes is not None and needed not in question.runtimes:
        return _deny(f"the runtime `{needed}` is not installed on the host")
    return PASS


def _evidence_of_other(offer: Candidate) -> GateResult:
    state = offer.other.state if offer.other else "unknown"
    reason = offer.other.reason if offer.other else ""
    if state not in get_args(State):
        return _unknown(f"this version of Rung does not know the state `{state}`")
    came_far = state in ("rejected", "withdrawn") or (
        state in LADDER and LADDER.index(_as_state(state)) >= LADDER.index("evaluated")
    )
    if came_far:
        return PASS
    return _deny(f"is {state}" + (f": {reason}" if reason else ", was never evaluated"))


def _as_state(state: str) -> State:
    return next(known for known in LADDER if known == state)


def _best_verdict(offer: Candidate, task: str) -> str:
    if offer.released is None:
        return ""
    verdicts = [
        verdict
        for result in offer.released.cell.tasks
        if result.task_type == task
        for verdict in result.verdicts
    ]
    return f": {verdicts[-1].status} for tier {verdicts[-1].tier}, {verdicts[-1].reason}" if verdicts else ""
