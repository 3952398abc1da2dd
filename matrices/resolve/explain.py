"""Explain a decision: what was chosen and why, and the first gate that every other candidate failed."""

from __future__ import annotations

from matrices.resolve.resolve import Considered, Decision

_MARKS = {"chosen": "→", "allow": "✓", "deny": "✗", "indeterminate": "?"}


def explain_decision(decision: Decision) -> list[str]:
    """The decision as lines for a person, most important first."""
    request = decision.request
    asked = f"{request.family}, {', '.join(request.tasks)}, tier {request.min_tier} or better"
    if request.artifact:
        asked += f", artifact {request.artifact[7:19]}"
    lines = [f"{decision.outcome}: {decision.reason}", f"asked: {asked} (release {decision.release})"]
    if decision.chosen is not None:
        approval = decision.chosen.approval
        lines.append(f"artifact: {decision.chosen.manifest.digest}")
        lines.append(f"approved by {approval.who}: {approval.why}")
        if approval.waiver:
            lines.append(f"WAIVER: {approval.waiver}")
    lines += [_line(one) for one in decision.candidates]
    if decision.outcome != "allow" and decision.feasible_tier is not None:
        lines.append(f"possible here now: tier {decision.feasible_tier}")
    better = [miss for miss in decision.near_misses if decision.tier is None or miss.tier < decision.tier]
    if better:
        lines.append("near misses:")
        lines += [f"  tier {miss.tier} by {miss.id}, but for {miss.gate}: {miss.reason}" for miss in better]
    return lines


def explain_markdown(decision: Decision) -> str:
    """The decision as Markdown, for a ticket or a review."""
    lines = [f"**{decision.outcome}**: {decision.reason}", ""]
    lines += ["| candidate | outcome | gate | reason |", "|---|---|---|---|"]
    for one in decision.candidates:
        reason = one.reason.replace("|", "\\|")
        lines.append(f"| `{one.id}` | {one.outcome} | {one.gate or ''} | {reason} |")
    return "\n".join(lines) + "\n"


def _line(one: Considered) -> str:
    where = f" [{one.gate}]" if one.gate else ""
    return f"  {_MARKS[one.outcome]} {one.id}{where} {one.reason}"
