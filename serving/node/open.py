"""Open a node: load the chosen artifact, with the promise that it makes to callers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from matrices.resolve.request import Request
from matrices.resolve.resolve import resolve
from serving.contract.problems import Json
from serving.contract.promise import Promise, alternatives, make_promise
from serving.node.choose import Choice, node_facts
from serving.node.host import installed_runtimes
from serving.node.load import LoadedModel, load_bundle


@dataclass(frozen=True, slots=True)
class Node:
    """A loaded model and what it promises."""

    model: LoadedModel
    promise: Promise
    runtimes: Mapping[str, str]
    """Installed runtime → version."""
    revoked: Mapping[str, str] = field(default_factory=dict)
    """Artifact → why it must not be served any more, as of the start."""

    @property
    def expired(self) -> bool:
        """Whether the release's time is over: a node that runs goes on answering, but is not ready."""
        return self.model.release is not None and self.model.release.expired(datetime.now(UTC))

    def is_of(self, choice: Choice) -> bool:
        """Whether this is what the choice would open."""
        promise = self.promise
        return (promise.release_digest, promise.artifact) == (choice.release.digest, choice.artifact)

    def alternatives(self, *, task: str | None, min_tier: int) -> list[Json]:
        """What else its release has for a caller: first what this host could serve."""
        release = self.model.release
        if release is None or not self.promise.tasks:
            return []
        request = Request(
            family=release.family,
            task=task or self.promise.tasks,
            min_tier=min_tier,
            region=self.promise.region,
        )
        facts = node_facts(request, self.model.host, runtimes=self.runtimes, revoked=self.revoked)
        return alternatives(resolve(release, facts), to=self.promise)


def open_node(
    choice: Choice,
    *,
    threads: int = 1,
    slots: int | None = None,
    context: int | None = None,
    beside: Sequence[LoadedModel] = (),
) -> Node:
    """A node that is ready to answer.

    Args:
        choice: What it serves.
        threads: Threads of the runtime.
        slots: Sequences to run together; None: as many as fit, at most 8.
        context: Tokens of one sequence; None: what model and artifact were made for, or as many as fit.
        beside: Models that go on answering meanwhile; if one is of the same artifact, the node has that one.

    Raises:
        NotFoundError: The artifact was not pulled.
        LoadError: It cannot run here as it was evaluated, or not beside the others.
        CorruptError: A file is not the one that the manifest names.
    """
    same = next((one for one in beside if one.digest == choice.artifact), None)
    if same is not None:
        model = same.approved_by(choice.release)
    else:
        model = load_bundle(
            choice.directory.find_bundle(choice.artifact),
            host=choice.host,
            release=choice.release,
            threads=threads,
            slots=slots,
            context=context,
            beside=beside,
        )
    tasks = choice.wanted.tasks
    return make_node(
        model,
        region=choice.decision.request.region,
        default_task=tasks[0] if len(tasks) == 1 else None,
        revoked=choice.revoked,
    )


def make_node(
    model: LoadedModel,
    *,
    region: str | None = None,
    default_task: str | None = None,
    runtimes: Mapping[str, str] | None = None,
    revoked: Mapping[str, str] | None = None,
) -> Node:
    """The node of a model that is loaded already.

    Args:
        model: What it serves.
        region: Where it is.
        default_task: Task type of callers that name none.
        runtimes: Runtime → version; None: those that are installed here, which are looked up.
        revoked: Artifact → why it must not be served any more; None: none is known to be.
    """
    promise = make_promise(
        model.manifest,
        context_tokens=model.limits.capacity,
        sequences=model.limits.slots,
        cell=model.cell,
        release=model.release,
        region=region,
        default_task=default_task,
    )
    return Node(
        model=model,
        promise=promise,
        runtimes=installed_runtimes() if runtimes is None else runtimes,
        revoked=revoked or {},
    )
