"""Terms: the quality that a caller asks for in headers, and what is promised in answer.

Tiers are earned per task type by evidence, so a least tier is checked against what the loaded cell has earned
for the task that the caller names. Nothing is downgraded in silence: a lower tier is given only to a caller
who allowed it, and the answer says so.

Requests: `X-Rung-Min-Tier`, `X-Rung-Task`, `X-Rung-On-Unavailable: error | wait | downgrade`,
`X-Rung-Session`. Answers: `X-Rung-Tier`, `X-Rung-Artifact`, `X-Rung-Session`, and where they apply
`X-Rung-Task`, `X-Rung-Region`, `X-Rung-Disclosure`. `X-Rung-Session` is stateless: a caller returns what it
got with its first answer, and no later answer of that session then comes from another artifact or a lower
tier without disclosure, whichever node gives it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from registry.digest import PATTERN
from registry.errors import UnknownNameError
from serving.contract.problems import RequestError, SessionMovedError, UnavailableError
from serving.contract.promise import Promise

OnUnavailable = Literal["error", "wait", "downgrade"]

MIN_TIER = "X-Rung-Min-Tier"
"""Request: the lowest tier that will do; 1 is the best. Without it any tier will do."""
TASK = "X-Rung-Task"
"""Request: the task type that the tier must be earned for. Answer: the task type that the tier is for."""
ON_UNAVAILABLE = "X-Rung-On-Unavailable"
"""Request: `error` (default) refuses below the asked tier or without room; `wait` waits for room in the
queue; `downgrade` accepts a lower tier, which the answer then discloses."""
SESSION = "X-Rung-Session"
"""Answer: artifact and tier of this conversation. Request: what the first answer had, so that no later answer
comes from another artifact or a lower tier without disclosure, whichever node gives it."""
TIER = "X-Rung-Tier"
"""Answer: the tier that was served, or `none`."""
ARTIFACT = "X-Rung-Artifact"
"""Answer: digest of the artifact that answered."""
REGION = "X-Rung-Region"
"""Answer: where the node is, as `rung serve --region` says."""
DISCLOSURE = "X-Rung-Disclosure"
"""Answer: what differs from what was asked for, where anything does."""

MAX_TIER = 1000
TIER_RETRY_AFTER_S = 300
"""A node's tier changes only with a new release: asking again much sooner cannot help."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a caller asks for."""

    min_tier: int | None = None
    """The lowest tier that will do; 1 is the best. None: any."""
    task: str | None = None
    on_unavailable: OnUnavailable = "error"
    session: str | None = None
    """Artifact that the session was answered by so far."""
    session_tier: int | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a caller gets."""

    tier: int | None
    """Earned for the task; None: no tier was earned."""
    task: str | None
    outcome: Literal["met", "downgraded"]
    disclosure: str = ""
    """What differs from what was asked for, for the caller to read."""


def read_terms(given: Mapping[str, str], *, tasks: tuple[str, ...]) -> Terms:
    """The terms in a request's headers.

    Args:
        given: Headers, looked up without regard to case.
        tasks: Task types that the promise has evidence for.

    Raises:
        RequestError: A header has a value that it cannot have; the message names it.
    """
    tier = given.get(MIN_TIER)
    if tier is not None and (not re.fullmatch(r"[0-9]{1,4}", tier) or not 1 <= int(tier) <= MAX_TIER):
        raise _bad(MIN_TIER, tier, "give a whole number from 1, which is the best")
    task = given.get(TASK)
    if task is not None and task not in tasks:
        raise _bad(TASK, task, UnknownNameError.of("task", task, known=tasks).hint)
    choice = given.get(ON_UNAVAILABLE, "error")
    if choice not in get_args(OnUnavailable):
        raise _bad(ON_UNAVAILABLE, choice, "give `error`, `wait` or `downgrade`")
    session = given.get(SESSION)
    pinned: tuple[str | None, int | None] = (None, None)
    if session is not None:
        digest, _, rest = session.partition(";tier=")
        if not PATTERN.match(digest) or not re.fullmatch(r"([0-9]{1,4})?", rest):
            raise _bad(SESSION, session, f"give the `{SESSION}` of an earlier answer unchanged")
        pinned = (digest, int(rest) if rest else None)
    return Terms(
        min_tier=None if tier is None else int(tier),
        task=task,
        on_unavailable=cast("OnUnavailable", choice),  # it is one of the literal's values
        session=pinned[0],
        session_tier=pinned[1],
    )


def agree(promise: Promise, terms: Terms) -> Agreement:
    """What a caller is given.

    Raises:
        UnavailableError: It is below the asked tier, and the caller did not allow that.
        SessionMovedError: The session would change its artifact or tier, and the caller did not allow that.
    """
    task = terms.task or promise.default_task
    tier = promise.tier(task)
    disclosures: list[str] = []
    if terms.min_tier is not None and (tier is None or tier > terms.min_tier):
        if terms.on_unavailable != "downgrade":
            raise _unavailable(promise, min_tier=terms.min_tier, task=task)
        disclosures.append(f"asked for tier {terms.min_tier}{_of(task)}, served {_named(tier)}")
    moved = _moved(promise, terms, tier=tier, task=task)
    if moved is not None:
        if terms.on_unavailable != "downgrade":
            raise SessionMovedError(
                moved,
                hint=f"begin a new session without `{SESSION}`, or go on with `{ON_UNAVAILABLE}: downgrade`",
            )
        disclosures.append(moved)
    return Agreement(
        tier=tier,
        task=task,
        outcome="downgraded" if disclosures else "met",
        disclosure="; ".join(disclosures),
    )


def plain_agreement(promise: Promise, *, task: str | None) -> Agreement:
    """What holds for an answer that was agreed on with nobody, such as an error."""
    task = task or promise.default_task
    return Agreement(tier=promise.tier(task), task=task, outcome="met")


def plain_headers(promise: Promise, *, task: str | None = None) -> Mapping[str, str]:
    """The headers of an answer that was agreed on with nobody."""
    return headers(promise, plain_agreement(promise, task=task))


def headers(promise: Promise, agreement: Agreement) -> Mapping[str, str]:
    """The headers that go on every answer."""
    tier = agreement.tier
    always = {
        TIER: "none" if tier is None else str(tier),
        ARTIFACT: promise.artifact,
        SESSION: f"{promise.artifact};tier={'' if tier is None else tier}",
    }
    optional = {TASK: agreement.task, REGION: promise.region, DISCLOSURE: agreement.disclosure}
    return always | {name: value for name, value in optional.items() if value}


def _moved(promise: Promise, terms: Terms, *, tier: int | None, task: str | None) -> str | None:
    if terms.session is None:
        return None
    if terms.session != promise.artifact:
        return f"the session was answered by {terms.session}, this node serves {promise.artifact}"
    if terms.session_tier is not None and (tier is None or tier > terms.session_tier):
        return f"the session had tier {terms.session_tier}, this node serves {_named(tier)}{_of(task)}"
    return None


def _unavailable(promise: Promise, *, min_tier: int, task: str | None) -> UnavailableError:
    return UnavailableError(
        f"this node serves {_named(promise.tier(task))}{_of(task)} with {promise.subject}, "
        f"tier {min_tier} was asked for",
        hint=f"ask a node that holds one of the alternatives, or send `{ON_UNAVAILABLE}: downgrade`",
        retry_after_s=TIER_RETRY_AFTER_S,
        task=task,
        min_tier=min_tier,
    )


def _named(tier: int | None) -> str:
    return "no tier" if tier is None else f"tier {tier}"


def _of(task: str | None) -> str:
    return f" for {task}" if task else " over all tasks"


def _bad(header: str, value: str, hint: str) -> RequestError:
    return RequestError(
        f"header `{header}` has the value {value[:80]!r}", hint=hint, param=header, code="invalid_header"
    )
