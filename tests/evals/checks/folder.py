"""A folder with one lm-eval task, for tests that spoil it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from registry.ladder import TaskEntry

TASK: dict[str, Any] = {
    "task": "mine",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "data.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_choice": ["yes", "no"],
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc"}],
}
GONE = object()
"""Value of a key that a task is to lack."""


@dataclass(frozen=True)
class Folder:
    """A ladder's directory with a folder `tasks`."""

    root: Path

    def write(
        self,
        changes: dict[str, Any] | None = None,
        *,
        data: bytes | None = None,
        text: str = "",
        name: str = "mine.yaml",
    ) -> None:
        """Write the task with some keys changed, its data, and more text at the end of the file."""
        tasks = self.root / "tasks"
        tasks.mkdir(exist_ok=True)
        config = {key: value for key, value in {**TASK, **(changes or {})}.items() if value is not GONE}
        (tasks / name).write_text(yaml.safe_dump(config) + text)
        rows = [json.dumps({"question": f"what is {n}?", "answer": str(n)}) for n in range(5)]
        (tasks / "data.jsonl").write_bytes("\n".join(rows).encode() if data is None else data)

    def entry(self, *names: str, **settings: Any) -> TaskEntry:
        """The ladder's table that names the task."""
        given = {"floor": (0.5,), "include": "tasks", "chat_template": False} | settings
        return TaskEntry(tasks=names or ("mine",), **given)


def rows(*values: object) -> bytes:
    """JSON lines of two fields, with these answers."""
    return "\n".join(json.dumps({"question": "q", "answer": value}) for value in values).encode()
