"""The evaluation harness: runs the samples of a task type on a session and returns a scorecard.

Samples are taken in a seeded order, chunk by chunk. After each chunk the caller may look at the outcomes and
stop; `evals/judge.py` explains when that is valid.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from compilers.model.tokenizer import Tokenizer
from compilers.runtime import Session
from evals.loading import load_tasks
from evals.prompting import ChatRenderer, Prompting
from evals.responses import Response, pack_responses
from evals.samples import LoadedTask, LoadedTasks
from evals.scorecard import Outcome, Scorecard
from registry.errors import EvaluationError, RungError

if TYPE_CHECKING:
    from evals.session_lm import SessionLM

__all__ = ["Evaluation", "LoadedTasks", "evaluate", "load_tasks", "scorecard"]

Until = Callable[[Sequence[Outcome]], bool]
Progress = Callable[[int, int], None]
_KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


@dataclass(frozen=True, slots=True)
class Taken:
    """One sample that was asked and marked."""

    outcome: Outcome
    responses: tuple[Response, ...]
    """One per request of the sample."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one run."""

    task_type: str
    tasks_digest: str
    """Digest of the tasks, their prompting and the seed of their order."""
    prompting: Prompting
    outcomes: tuple[Outcome, ...]
    """In the order in which samples were taken."""
    responses: tuple[tuple[Response, ...], ...]
    """What the model answered to each of them."""
    available: int
    """Samples that could have been taken; more than `len(outcomes)` after an early stop."""
    batch_size: int
    tokens: int
    """Tokens scored or generated."""
    seconds: float


def evaluate(
    session: Session,
    tokenizer: Tokenizer,
    tasks: LoadedTasks,
    *,
    batch_size: int,
    order_seed: int,
    chunk: int,
    until: Until | None = None,
    progress: Progress | None = None,
    max_samples: int | None = None,
) -> Evaluation:
    """Evaluate the samples of a task type until all are done or `until` says so.

    A sample's outcome does not depend on `until`: chunks are the same with and without it.

    Args:
        session: A loaded artifact, or torch over the checkpoint.
        tokenizer: Its tokenizer.
        tasks: From `load_tasks`.
        batch_size: Rows that run together.
        order_seed: Seed of the order in which samples are taken.
        chunk: Samples between two calls of `until`.
        until: Given all outcomes so far; True ends the run.
        progress: Called with samples taken and samples to take, after each chunk.
        max_samples: At most this many; None: as many as `tasks.available`.

    Raises:
        EvaluationError: A sample cannot be asked or marked, or the tokenizer has no chat template and the
            tasks ask for it.
        ConfigurationError: The chat template refuses the system prompt.
    """
    from evals.session_lm import SessionLM

    for name, number in (("batch_size", batch_size), ("chunk", chunk), ("max_samples", max_samples)):
        if number is not None and number < 1:
            raise EvaluationError(f"{name} is {number}", hint=f"give a {name} of 1 or more")
    order = tasks.order(seed=order_seed)[:max_samples]
    _check_template(tasks, tokenizer)
    model = SessionLM(session, tokenizer, batch_size=batch_size, chat=tasks.prompting.chat_template)
    outcomes: list[Outcome] = []
    responses: list[tuple[Response, ...]] = []
    started = time.perf_counter()
    for start in range(0, len(order), chunk):
        for taken in _take(model, order[start : start + chunk]):
            outcomes.append(taken.outcome)
            responses.append(taken.responses)
        if progress is not None:
            progress(len(outcomes), len(order))
        if until is not None and until(outcomes):
            break
    return Evaluation(
        task_type=tasks.task_type,
        tasks_digest=tasks.ordered_digest(seed=order_seed),
        prompting=tasks.prompting,
        outcomes=tuple(outcomes),
        responses=tuple(responses),
        available=len(order),
        batch_size=batch_size,
        tokens=model.tokens,
        seconds=time.perf_counter() - started,
    )


def take_samples(
    session: Session,
    tokenizer: Tokenizer,
    tasks: LoadedTasks,
    samples: Sequence[tuple[LoadedTask, int]],
    *,
    batch_size: int,
) -> list[Taken]:
    """Run and mark some samples of a task type, whatever their order; see `evaluate`."""
    from evals.session_lm import SessionLM

    _check_template(tasks, tokenizer)
    model = SessionLM(session, tokenizer, batch_size=batch_size, chat=tasks.prompting.chat_template)
    return _take(model, samples)


def scorecard(
    evaluation: Evaluation, *, subject: str, runtime: str, runtime_version: str, chip: str
) -> Scorecard:
    """The scorecard of a run.

    Args:
        evaluation: The run.
        subject: Digest of the artifact, or of the checkpoint for a reference run in torch.
        runtime: `onnxruntime`, `tvm`, or `torch` for a reference.
        runtime_version: Its version.
        chip: The processor's own name.
    """
    return Scorecard(
        task_type=evaluation.task_type,
        subject=subject,
        runtime=runtime,
        runtime_version=runtime_version,
        chip=chip,
        tasks_digest=evaluation.tasks_digest,
        prompting=evaluation.prompting,
        batch_size=evaluation.batch_size,
        outcomes=evaluation.outcomes,
        available=evaluation.available,
        tokens=evaluation.tokens,
        seconds=evaluation.seconds,
        measured_at=datetime.now(UTC),
        responses=pack_responses(evaluation.responses),
    )


def _check_template(tasks: LoadedTasks, tokenizer: Tokenizer) -> None:
    """Refuse before the first sample what would be dropped or fail in each of them."""
    if not tasks.prompting.chat_template:
        return
    if not tokenizer.chat_template.has_default:
        raise EvaluationError(
            f"task type `{tasks.task_type}` asks for the chat template, and the tokenizer at "
            f"`{tokenizer.chat_template.where}` has none",
            hint=f"set `chat_template = false` in [task.{tasks.task_type}]",
        )
    if tasks.prompting.system_prompt is not None:
        system = {"role": "system", "content": tasks.prompting.system_prompt}
        tokenizer.render_chat([system, {"role": "user", "content": "?"}])


def _take(model: SessionLM, samples: Sequence[tuple[LoadedTask, int]]) -> list[Taken]:
    """Run and mark some samples, in the order of `samples`."""
    from lm_eval.api.instance import Instance

    asked: dict[str, list[Any]] = {kind: [] for kind in _KINDS}  # Any: lm-eval ships no types
    owners: dict[str, list[tuple[LoadedTask, int]]] = {kind: [] for kind in _KINDS}
    for task, number in samples:
        try:
            requests = task.requests(number, chat=model)
        except RungError:
            raise
        except Exception as error:  # a task's own templates and code may raise anything
            raise _task_error(task, number, error, doing="asked") from error
        for request in requests:
            instance = Instance(request.kind, task.documents[number], request.arguments, request.index)
            asked[request.kind].append(instance)
            owners[request.kind].append((task, number))
    answers: dict[LoadedTask, dict[int, list[Any]]] = defaultdict(dict)  # Any: floats, flags, texts
    for kind, instances in asked.items():
        replies = getattr(model, kind)(instances) if instances else []
        for (task, number), reply in zip(owners[kind], replies, strict=True):
            answers[task].setdefault(number, []).append(reply)
    outcomes: dict[tuple[str, int], Outcome] = {}
    for task, given in answers.items():
        for outcome in _mark(task, given, chat=model):
            outcomes[task.name, outcome.doc_id] = outcome
    return [Taken(outcomes[task.name, number], tuple(answers[task][number])) for task, number in samples]


def _mark(
    task: LoadedTask,
    answers: dict[int, list[Any]],  # Any: floats, flags, texts
    *,
    chat: ChatRenderer,
) -> list[Outcome]:
    try:
        return task.mark(answers, chat=chat)
    except RungError:
        raise
    except Exception as error:  # a task's own filters and metrics may raise anything
        raise _task_error(task, min(answers), error, doing="marked") from error


def _task_error(task: LoadedTask, number: int, error: Exception, *, doing: str) -> EvaluationError:
    return EvaluationError(
        f"task `{task.name}`: sample {number} cannot be {doing}: {type(error).__name__}: {error}",
        hint="check the task's YAML, its functions and its data",
    )
