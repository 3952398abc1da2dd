"""Check of one lm-eval task: what lm-eval would refuse when it loads it, found without lm-eval."""

from __future__ import annotations

import ast
import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from evals.checks.data_sets import check_data_set
from evals.checks.lm_eval_names import Vocabulary
from evals.checks.task_data import DataRows, Row, read_data
from evals.checks.task_files import FILE, Config, FunctionName, functions_of
from registry.errors import ConfigurationError, UnknownNameError
from registry.ladder import TaskEntry

LOCAL_BUILDERS: Final = frozenset({"json", "csv", "parquet", "text", "arrow"})
"""Builders of `datasets` that read files."""
STRUCTURE: Final = frozenset({"tag", "group", "task_list", "class", FILE})
"""Keys of a configuration beside the fields of lm-eval's `TaskConfig`."""
_SPLITS: Final = ("test_split", "validation_split")
_COLUMN: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True)
class TaskCheck:
    """One task's configuration, and the checks of it in the order in which lm-eval would fail."""

    name: str
    config: Config
    entry: TaskEntry
    words: Vocabulary
    task_type: str

    def samples(self) -> int | None:
        """The number of its samples; None where it is not known.

        Raises:
            ConfigurationError: It cannot be loaded.
        """
        config = {key: value for key, value in self.config.items() if key not in STRUCTURE}
        for function in functions_of(config):
            if (problem := function.problem()) is not None:
                raise self._error(problem.message, hint=problem.hint)
        if "class" in self.config:
            return None  # defined in Python
        self._check_words(config)
        self._check_scoring(config)
        self._check_prompts(config)
        if config.get("custom_dataset") is not None:
            return None
        if config.get("dataset_path") not in LOCAL_BUILDERS:
            check_data_set(str(config["dataset_path"]), config.get("dataset_name"), task=self._where)
            return None
        return self._check_data(config)

    @property
    def _where(self) -> str:
        file = self.config.get(FILE)
        return f"task.{self.task_type}: task `{self.name}`" + (f" in `{file}`" if file else "")

    def _error(self, what: str, *, hint: str) -> ConfigurationError:
        return ConfigurationError(f"{self._where}: {what}", hint=hint)

    def _unknown(self, kind: str, name: object, known: Sequence[str], *, where: str = "") -> UnknownNameError:
        error = UnknownNameError.of(kind, str(name), known=known, where=where)
        return UnknownNameError(f"{self._where}: {error.message}", hint=error.hint)

    def _check_words(self, config: Config) -> None:
        for key in config:
            if key not in self.words.keys:
                raise self._unknown("key", key, self.words.keys)
        output = config.get("output_type", "generate_until")
        if output not in self.words.output_types:
            raise self._unknown("output_type", output, self.words.output_types)
        if config.get("unsafe_code"):
            raise self._error(
                "it runs code that the model writes", hint="remove it: Rung has no sandbox for that"
            )
        if config.get("doc_to_image") is not None or config.get("doc_to_audio") is not None:
            raise self._error("it needs images or sound", hint="remove it: sessions read text only")
        if self.entry.num_fewshot and config.get("num_fewshot") == 0:
            raise self._error(
                f"it says `num_fewshot: 0` itself, the ladder {self.entry.num_fewshot}",
                hint="leave num_fewshot out of the ladder: lm-eval keeps such a task without examples",
            )
        if config.get("dataset_path") is None and config.get("custom_dataset") is None:
            raise self._error(
                "it has no `dataset_path`", hint="add `dataset_path: json` and its `data_files`"
            )
        if all(config.get(split) is None for split in _SPLITS):
            raise self._error("it has no `test_split`", hint="add `test_split: test`")

    def _check_scoring(self, config: Config) -> None:
        own = config.get("process_results") is not None
        names = []
        for metric in config.get("metric_list") or []:
            if not isinstance(metric, dict) or "metric" not in metric:
                raise self._error(f"metric_list has {metric!r}", hint="write `- metric: NAME`")
            name = metric["metric"]
            if isinstance(name, FunctionName):
                names.append(name.name)
                continue
            names.append(str(name))
            if not own and not metric.get("hf_evaluate") and name not in self.words.metrics:
                raise self._unknown("metric", name, self.words.metrics)
        filters = [self._check_filter(each) for each in config.get("filter_list") or []]
        metadata = config.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        if (chosen := metadata.get("rung_filter")) is not None and chosen not in (filters or ["none"]):
            raise self._unknown("filter", chosen, filters or ["none"], where="metadata.rung_filter")
        chosen = metadata.get("rung_metric")
        if chosen is not None and not own and names and chosen not in names:
            raise self._unknown("metric", chosen, names, where="metadata.rung_metric")

    def _check_filter(self, pipeline: object) -> str:
        match pipeline:
            case {"name": name, "filter": list(steps)}:
                for step in steps:
                    self._check_filter_step(step)
                return str(name)
            case _:
                raise self._error(
                    f"filter_list has {pipeline!r}", hint="write `- name: NAME` with a list `filter`"
                )

    def _check_filter_step(self, step: object) -> None:
        if not isinstance(step, dict) or "function" not in step:
            raise self._error(f"a filter has the step {step!r}", hint="write `- function: NAME`")
        if step["function"] not in self.words.filters:
            raise self._unknown("filter", step["function"], self.words.filters)
        if isinstance(pattern := step.get("regex_pattern"), str):
            try:
                re.compile(pattern)
            except re.error as error:
                raise self._error(
                    f"regex_pattern `{pattern}` is not a regular expression: {error}", hint="correct it"
                ) from error

    def _check_prompts(self, config: Config) -> None:
        for key in ("doc_to_text", "doc_to_target"):
            if config.get(key) is None and config.get("use_prompt") is None:
                raise self._error(f"it has no `{key}`", hint=f'add one, such as `{key}: "{{{{field}}}}"`')
        if config.get("output_type") == "multiple_choice" and config.get("doc_to_choice") is None:
            raise self._error("it is multiple_choice without `doc_to_choice`", hint="add the answers")
        for key in ("doc_to_text", "doc_to_target", "doc_to_choice", "description"):
            if isinstance(template := config.get(key), str):
                self._parse(key, template)

    def _parse(self, key: str, template: str) -> jinja2.Template:
        environment = ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, keep_trailing_newline=True
        )
        environment.filters["regex_replace"] = _regex_replace
        try:
            return environment.from_string(template)
        except jinja2.TemplateSyntaxError as error:
            raise self._error(
                f"{key} is not a template: {error.message} (line {error.lineno})", hint="correct it"
            ) from error

    # Data

    def _check_data(self, config: Config) -> int | None:
        settings = dict(config.get("dataset_kwargs") or {})
        split = next(name for key in _SPLITS if (name := config.get(key)) is not None)
        fewshot = config.get("fewshot_config")
        wanted = [
            split,
            config.get("fewshot_split"),
            fewshot.get("split") if isinstance(fewshot, dict) else None,
        ]
        splits = self._splits(settings)
        if splits is None:
            return None
        for name in wanted:
            if name is not None and name not in splits:
                raise self._unknown("split", name, list(splits))
        files = {name: self._files(value) for name, value in splits.items()}
        found = {
            name: [self._read(path, config["dataset_path"], settings) for path in paths]
            for name, paths in files.items()
            if paths is not None and name in wanted
        }
        if split not in found or config.get("process_docs") is not None:
            return None
        rows = [one for one in found[split] if one is not None]
        if len(rows) != len(found[split]):
            return None
        columns = frozenset[str]().union(*(one.columns for one in rows))
        for one in rows:
            self._check_rows(config, one, columns=columns)
        return sum(one.count for one in rows)

    def _read(self, path: Path, builder: str, settings: Mapping[str, object]) -> DataRows | None:
        try:
            return read_data(path, builder=builder, settings=settings)
        except ConfigurationError as error:
            raise self._error(error.message, hint=error.hint) from error

    def _splits(self, settings: Mapping[str, object]) -> Mapping[str, object] | None:
        match settings.get("data_files"):
            case dict() as splits:
                return splits
            case str() | list() as files:
                return {"train": files}  # what `datasets` calls them
            case _:
                if settings.get("data_dir") is None:
                    raise self._error(
                        "it reads local files and names none",
                        hint="add `dataset_kwargs: {data_files: {test: FILE}}`",
                    )
                return None

    def _files(self, value: object) -> list[Path] | None:
        """The files of a split; None where only `datasets` can tell."""
        names = value if isinstance(value, list) else [value]
        found = []
        folder = Path(self.config[FILE]).parent if FILE in self.config else Path()
        for name in names:
            if not isinstance(name, str) or "://" in name or glob.has_magic(name):
                return None
            path = folder / name if (folder / name).exists() else Path(name)
            if not path.is_file():
                raise self._error(
                    f"no data file `{name}` in `{folder}`", hint="put it there, or correct `data_files`"
                )
            found.append(path)
        return found

    def _check_rows(self, config: Config, data: DataRows, *, columns: frozenset[str]) -> None:
        if not data.rows:
            return
        first = dict.fromkeys(columns) | dict(data.rows[0])
        for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
            template = config.get(key)
            if isinstance(template, str) and template not in columns:
                text = self._render(key, template, first)
                if key == "doc_to_choice":
                    self._check_choices(text)
        if config.get("output_type") == "multiple_choice":
            self._check_answers(config, data.rows, columns)

    def _render(self, key: str, template: str, row: Row) -> str:
        try:
            return self._parse(key, template).render(**row)
        except jinja2.UndefinedError as error:
            raise self._error(
                f"{key} does not fit its data: {error.message}", hint=f"the fields are {sorted(row)}"
            ) from error
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise self._error(f"{key} fails on the first sample: {error}", hint="correct it") from error

    def _check_choices(self, text: str) -> None:
        try:
            choices = ast.literal_eval(text)
        except (SyntaxError, ValueError) as error:
            raise self._error(
                f"doc_to_choice gives `{text[:80]}`, which is not a list",
                hint="name a field that holds a list",
            ) from error
        if not isinstance(choices, list | tuple):
            raise self._error(
                f"doc_to_choice gives `{text[:80]}`, which is not a list",
                hint="name a field that holds a list",
            )

    def _check_answers(self, config: Config, rows: Sequence[Row], columns: frozenset[str]) -> None:
        """That each answer is one of its choices, where both are plain fields."""
        target, choice = (_column(config.get(key), columns) for key in ("doc_to_target", "doc_to_choice"))
        given = config.get("doc_to_choice")
        if target is None or (choice is None and not isinstance(given, list)):
            return
        for number, row in enumerate(rows, start=1):
            choices = given if isinstance(given, list) else row[choice] if choice else None
            answer = row[target]
            if not isinstance(choices, list):
                continue
            fits = -len(choices) <= answer < len(choices) if isinstance(answer, int) else answer in choices
            if isinstance(answer, int | str) and not fits and not _is_place(answer, choices):
                raise self._error(
                    f"the answer of sample {number}, `{answer}`, is not one of its {len(choices)} choices",
                    hint=f"correct its field `{target}`: a number from 0, or one of the choices",
                )


def _is_place(answer: object, choices: Sequence[object]) -> bool:
    """Whether a text is the number of a choice, which lm-eval accepts."""
    return isinstance(answer, str) and answer.isdigit() and int(answer) < len(choices)


def _column(template: object, columns: frozenset[str]) -> str | None:
    """The field that a template stands for; None where it is more than that."""
    if not isinstance(template, str):
        return None
    name = found[1] if (found := _COLUMN.fullmatch(template)) else template
    return name if name in columns else None


def _regex_replace(text: str, pattern: str, replacement: str, count: int = 0) -> str:
    """lm-eval's filter of that name."""
    return re.sub(pattern, replacement, text, count=count)
