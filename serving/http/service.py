"""The service: one opened node with its running engine and its metrics, which all routes share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.contract.problems import UnavailableError
from serving.contract.promise import Promise
from serving.contract.terms import Agreement, Terms, agree
from serving.engine.engine import Engine
from serving.http.metrics import Metrics
from serving.node.open import Node
from serving.openai.intake import Intake
from serving.openai.served import ServedModel


@dataclass(frozen=True, slots=True)
class Service:
    """All that is needed to answer for a node."""

    node: Node
    engine: Engine
    model: ServedModel
    metrics: Metrics
    max_wait_s: float = 30.0
    """How long a caller who asked to wait may wait for room in the queue."""

    @property
    def promise(self) -> Promise:
        """What callers are promised."""
        return self.node.promise

    @property
    def status(self) -> str:
        """`ready`, `expired` (generations are answered still) or `stopped`, which is for good."""
        if not self.engine.healthy:
            return "stopped"
        return "expired" if self.node.expired else "ready"

    def close(self) -> None:
        """Answer nothing more."""
        self.model.intake.close()
        self.engine.close()
        self.metrics.forget(self.engine)

    def agree(self, terms: Terms) -> Agreement:
        """What a caller is given.

        Raises:
            UnavailableError: It is below the asked tier; the error names the alternatives.
            SessionMovedError: The session would change its artifact or tier.
        """
        try:
            return agree(self.promise, terms)
        except UnavailableError as error:
            found = self.node.alternatives(task=error.task, min_tier=error.min_tier)
            raise error.with_alternatives(found) from None


def create_service(node: Node, *, max_wait_s: float = 30.0, before: Sequence[Service] = ()) -> Service:
    """A running service of a node; close it at the end.

    Args:
        node: What it serves.
        max_wait_s: How long a caller who asked to wait may wait for room in the queue.
        before: Services of the same server that it comes after: it has their metrics, and the engine of the
            one that serves the same session.
    """
    model = node.model
    same = (one.engine for one in before if one.node.model.session is model.session)
    engine = next(same, None) or Engine(model.session, model.tokenizer, limits=model.limits)
    return Service(
        node=node,
        engine=engine,
        model=ServedModel(
            promise=node.promise,
            tokenizer=model.tokenizer,
            limits=engine.limits,
            vocab_size=model.session.vocab_size,
            intake=Intake(model.tokenizer, most_tokens=engine.limits.capacity),
        ),
        metrics=before[-1].metrics if before else Metrics(),
        max_wait_s=max_wait_s,
    )
