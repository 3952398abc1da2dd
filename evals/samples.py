"""lm-eval tasks with their documents (samples), ready to be run and marked any number of times.

lm-eval rebuilds a task's requests for every run. They do not depend on what is evaluated, so they are built
once per process and chat template here and reused for every artifact. Prompts, filters and metrics are
lm-eval's own.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evals.prompting import ChatRenderer, Prompting
from evals.responses import Response
from evals.scorecard import Outcome
from registry.digest import digest_value
from registry.errors import EvaluationError

METRICS = (
    "acc",
    "exact_match",
    "acc_norm",
    "acc_bytes",
    "acc_mutual_info",
    "prompt_level_strict_acc",
    "contains",
    "pass@1",
    "f1",
)
"""The metric that is a sample's outcome: the first of these that a task has, else its only metric.

A task overrides this in its YAML: `metadata: {rung_metric: acc_norm, rung_filter: strict-match}`.
"""
FEWSHOT_SEED = 1234
"""lm-eval's default, so that few-shot examples are those of a stock run."""

Document = Mapping[str, Any]  # Any: fields of the task's own


@dataclass(frozen=True, slots=True)
class LmRequest:
    """One request to the model, as lm-eval makes it."""

    kind: str
    """Method of lm-eval's `LM`: `loglikelihood`, `loglikelihood_rolling` or `generate_until`."""
    arguments: tuple[Any, ...]  # Any: strings and generation settings
    index: int
    """Index among the sample's requests."""


class LoadedTask:
    """One lm-eval task and its documents.

    Args:
        name: lm-eval's name of the task.
        lm_task: The lm-eval task.
        prompting: How its documents become prompts; its `num_fewshot` is set in `lm_task` already.
    """

    def __init__(self, name: str, lm_task: Any, *, prompting: Prompting) -> None:  # noqa: ANN401  # no types
        self.name = name
        self._prompting = prompting
        self.documents: list[Document] = list(lm_task.eval_docs)
        self._task = lm_task
        self._repeats = int(lm_task.config.repeats or 1)
        self.shots = int(lm_task.config.num_fewshot or 0)
        """Few-shot examples before each question."""
        self._requests: dict[str, dict[int, list[LmRequest]]] = {}
        """Name of the tokenizer, empty for plain text → document number → requests."""
        self._hashes: dict[int, str] = {}
        metadata = lm_task.config.metadata if isinstance(lm_task.config.metadata, dict) else {}
        self._metric: str | None = metadata.get("rung_metric")
        self._filter = self._chosen_filter(metadata.get("rung_filter"))

    @property
    def lm_task(self) -> Any:  # noqa: ANN401  # lm-eval ships no types
        """The lm-eval task, for a run of lm-eval's own."""
        return self._task

    @property
    def definition(self) -> str:
        """Digest of configuration, documents and few-shot examples."""
        config = self._task.dump_config()
        config.pop("custom_dataset", None)
        config["dataset_kwargs"] = {
            key: value
            for key, value in (config.get("dataset_kwargs") or {}).items()
            if key not in ("data_files", "data_dir", "cache_dir")
        }
        metadata = config.get("metadata")
        if isinstance(metadata, dict):
            config["metadata"] = {key: value for key, value in metadata.items() if key != "config_source"}
        examples = [_hash_document(document) for document in self._task.fewshot_docs()] if self.shots else []
        return digest_value(
            {
                "config": json.loads(json.dumps(config, default=_source, sort_keys=True)),
                "documents": [self.document_hash(number) for number in range(len(self.documents))],
                "examples": examples,
                "filter": self._filter.name,
            }
        )

    def document_hash(self, number: int) -> str:
        """lm-eval's `doc_hash` of a document."""
        if number not in self._hashes:
            self._hashes[number] = _hash_document(self.documents[number])
        return self._hashes[number]

    def requests(self, number: int, *, chat: ChatRenderer) -> list[LmRequest]:
        """The requests of a document.

        Args:
            number: Of the document.
            chat: Renders conversations, where prompts are conversations.
        """
        built = self._requests.setdefault(chat.tokenizer_name if self._prompting.chat_template else "", {})
        if number not in built:
            self._task.set_fewshot_seed(FEWSHOT_SEED)
            # Few-shot examples are drawn document by document; a stock run draws them all, in order.
            for place in range(len(self.documents)) if self.shots else (number,):
                built[place] = self._build(place, chat=chat)
        return built[number]

    def mark(
        self,
        answers: Mapping[int, Sequence[Any]],  # Any: answers of lm-eval's LM
        *,
        chat: ChatRenderer,
    ) -> list[Outcome]:
        """The outcome of each document.

        Args:
            answers: Document number → one answer per request, in order.
            chat: As in `requests`.

        Raises:
            EvaluationError: The task has no outcome between 0 and 1, or several and no rule to choose one.
        """
        return self._marked(
            {number: (self.requests(number, chat=chat), given) for number, given in answers.items()}
        )

    def mark_again(self, answers: Mapping[int, Sequence[Response]]) -> list[Outcome]:
        """The outcome of each document by responses that were kept; needs no tokenizer, so has no prompts.

        Raises:
            EvaluationError: A document does not have such responses; or see `mark`.
        """
        asked: dict[int, tuple[list[LmRequest], Sequence[Response]]] = {}
        for number, given in answers.items():
            if not 0 <= number < len(self.documents):
                raise EvaluationError(f"task `{self.name}` has no sample {number}", hint="evaluate again")
            requests = self._construct(number, context="")
            if [request.kind for request in requests] != [_kind_of(one) for one in given]:
                raise EvaluationError(
                    f"task `{self.name}`: the responses of sample {number} are not those of its "
                    f"{len(requests)} requests",
                    hint="evaluate again",
                )
            asked[number] = (requests, given)
        return self._marked(asked)

    def _marked(
        self,
        asked: Mapping[int, tuple[Sequence[LmRequest], Sequence[Any]]],  # Any: answers of lm-eval's LM
    ) -> list[Outcome]:
        from lm_eval.api.instance import Instance

        instances: dict[int, list[Any]] = {}  # Any: lm-eval ships no types
        for number, (requests, given) in asked.items():
            document = self.documents[number]
            instances[number] = [
                Instance(
                    request.kind,
                    document,
                    request.arguments,
                    request.index,
                    metadata=(self.name, number, self._repeats),
                    resps=[answer] * self._repeats,
                )
                for request, answer in zip(requests, given, strict=True)
            ]
        self._filter.apply([instance for group in instances.values() for instance in group])
        return [self._outcome(number, group) for number, group in instances.items()]

    def _outcome(self, number: int, instances: Sequence[Any]) -> Outcome:  # Any: lm-eval ships no types
        filtered = [instance.filtered_resps[self._filter.name] for instance in instances]
        metrics = self._task.process_results(self.documents[number], filtered)
        metric = self._choose(metrics)
        value = _fraction(metrics[metric])
        if value is None:
            raise EvaluationError(
                f"task `{self.name}`: {metric} of sample {number} is {metrics[metric]!r}, not within 0 to 1",
                hint="name a metric that marks each sample in the YAML: `metadata: {rung_metric: …}`",
            )
        return Outcome(task=self.name, doc_id=number, doc_hash=self.document_hash(number), value=value)

    def _choose(self, metrics: Mapping[str, object]) -> str:
        if self._metric is not None:
            if self._metric in metrics:
                return self._metric
            raise EvaluationError(
                f"task `{self.name}` has no metric `{self._metric}` (metadata.rung_metric)",
                hint=f"it has {sorted(metrics)}",
            )
        known = next((metric for metric in METRICS if _fraction(metrics.get(metric)) is not None), None)
        if known is not None:
            return known
        usable = [metric for metric, value in metrics.items() if _fraction(value) is not None]
        if len(usable) == 1:
            return usable[0]
        raise EvaluationError(
            f"task `{self.name}` has no single outcome per sample among its metrics {sorted(metrics)}",
            hint="name one that lies between 0 and 1 in the YAML: `metadata: {rung_metric: …}`",
        )

    def _chosen_filter(self, name: str | None) -> Any:  # noqa: ANN401  # lm-eval ships no types
        filters = self._task._filters
        if name is None:
            return filters[0]
        for ensemble in filters:
            if ensemble.name == name:
                return ensemble
        raise EvaluationError(
            f"task `{self.name}` has no filter `{name}` (metadata.rung_filter)",
            hint=f"it has {[ensemble.name for ensemble in filters]}",
        )

    def _build(self, number: int, *, chat: ChatRenderer) -> list[LmRequest]:
        document, prompting = self.documents[number], self._prompting
        render = chat.apply_chat_template if prompting.chat_template else None
        context = self._task.fewshot_context(
            document,
            num_fewshot=self.shots,
            system_instruction=prompting.system_prompt,
            apply_chat_template=prompting.chat_template,
            fewshot_as_multiturn=prompting.fewshot_as_multiturn,
            chat_template=render,
            gen_prefix=self._task.doc_to_prefix(document),
        )
        return self._construct(number, context=context, chat_template=render)

    def _construct(
        self,
        number: int,
        *,
        context: Any,  # noqa: ANN401  # a text, or a list of them where a task has several inputs
        chat_template: Callable[..., str] | None = None,
    ) -> list[LmRequest]:
        built = self._task.construct_requests(
            doc=self.documents[number],
            ctx=context,
            metadata=(self.name, number, self._repeats),
            apply_chat_template=chat_template is not None,
            chat_template=chat_template,
        )
        instances = built if isinstance(built, list) else [built]
        return [LmRequest(i.request_type, i.args, i.idx) for i in sorted(instances, key=lambda i: i.idx)]


@dataclass(frozen=True, slots=True)
class LoadedTasks:
    """The lm-eval tasks of one task type."""

    task_type: str
    tasks: tuple[LoadedTask, ...]
    available: int
    """Samples to take when nothing stops earlier: all, or the ladder's `max_samples`."""
    digest: str
    """Digest of definitions, data, prompting and lm-eval's version."""
    prompting: Prompting
    """How samples become prompts."""

    def ordered_digest(self, *, seed: int) -> str:
        """The digest of the tasks and of the order in which their samples are taken."""
        return digest_value({"tasks": self.digest, "order_seed": seed})

    def order(self, *, seed: int) -> list[tuple[LoadedTask, int]]:
        """All samples that may be taken, in the order in which they are taken.

        Each task is shuffled by `seed`; then the tasks are interleaved in proportion to their sizes, so that
        every prefix of the order holds each task's share, and a shorter order is a prefix of a longer one.
        """
        keyed: list[tuple[float, int, LoadedTask, int]] = []
        for place, task in enumerate(self.tasks):
            numbers = list(range(len(task.documents)))
            random.Random(f"{seed}/{task.name}").shuffle(numbers)
            keyed += [((i + 0.5) / len(numbers), place, task, n) for i, n in enumerate(numbers)]
        keyed.sort(key=lambda entry: entry[:2])
        return [(task, number) for _, _, task, number in keyed[: self.available]]


def _kind_of(response: Response) -> str:
    match response:
        case str():
            return "generate_until"
        case float():
            return "loglikelihood_rolling"
        case _:
            return "loglikelihood"


def _fraction(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]  # numpy scalars have no common type
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and 0 <= number <= 1 else None


def _hash_document(document: Document) -> str:
    from lm_eval.utils import handle_non_serializable

    text = json.dumps(document, indent=2, default=handle_non_serializable, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _source(value: object) -> str:
    """JSON form of a value that JSON cannot hold: a function's qualified name, never its address."""
    name = getattr(value, "__qualname__", None)
    return f"{getattr(value, '__module__', '')}.{name}" if name else str(value)
