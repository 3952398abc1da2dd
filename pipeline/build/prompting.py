"""Whether task types are evaluated in the chat template: the ladder's word, else what its checkpoints have.

All variants of a ladder are compared with each other, so a task type has one answer for all of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from compilers.model.chat_template import CONFIG_FILE, TEMPLATE_FILE, TEMPLATE_FOLDER, read_chat_template
from registry.checkpoint import Checkpoint, FileEntry
from registry.errors import ConfigurationError
from registry.intake import read_json
from registry.ladder import Ladder, TaskEntry


class CheckpointFiles(Protocol):
    """Where small files of checkpoints are read from: `registry.mlflow.Checkpoints`."""

    def read_file(self, checkpoint: Checkpoint, file: FileEntry) -> bytes:
        """The content of one file."""
        ...


def decide_prompting(
    ladder: Ladder, pinned: tuple[Checkpoint, ...], *, checkpoints: CheckpointFiles
) -> Ladder:
    """The ladder with `chat_template` decided for every task type.

    Raises:
        ConfigurationError: Some of the checkpoints have a chat template, others none, and a task type leaves
            it open; or it asks for what a checkpoint lacks.
    """
    if all(entry.chat_template is False for entry in ladder.task.values()):
        return ladder
    templated = {one.ref: has_chat_template(one, checkpoints=checkpoints) for one in pinned}
    return ladder.model_copy(
        update={"task": {name: _decided(name, entry, templated) for name, entry in ladder.task.items()}}
    )


def has_chat_template(checkpoint: Checkpoint, *, checkpoints: CheckpointFiles) -> bool:
    """Whether a checkpoint has a chat template for conversations without tools.

    Raises:
        CheckpointError: Its `tokenizer_config.json` is damaged.
        ConfigurationError: The template has an unknown form.
    """
    wanted = [
        file
        for file in checkpoint.files
        if file.path in (CONFIG_FILE, TEMPLATE_FILE) or file.path.startswith(f"{TEMPLATE_FOLDER}/")
    ]
    with tempfile.TemporaryDirectory(prefix="rung-template-") as scratch:
        for file in wanted:
            path = Path(scratch) / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(checkpoints.read_file(checkpoint, file))
        path = Path(scratch) / CONFIG_FILE
        config = read_json(path, hint="register the checkpoint again") if path.is_file() else {}
        return read_chat_template(Path(scratch), config=config, special_tokens={}).has_default


def _decided(name: str, entry: TaskEntry, templated: Mapping[str, bool]) -> TaskEntry:
    having = [ref for ref, has in templated.items() if has]
    lacking = [ref for ref, has in templated.items() if not has]
    if lacking and entry.chat_template:
        raise ConfigurationError(
            f"task.{name} asks for the chat template, and checkpoint `{lacking[0]}` has none",
            hint=f"add one to the checkpoint, or set `chat_template = false` in [task.{name}]",
        )
    if lacking and having and entry.chat_template is None:
        raise ConfigurationError(
            f"checkpoint `{having[0]}` has a chat template and `{lacking[0]}` has none, so task.{name} must "
            "say how they are compared",
            hint=f"set `chat_template = false` in [task.{name}], or add a template to `{lacking[0]}`",
        )
    if entry.chat_template is not None:
        return entry
    if entry.fewshot_as_multiturn and lacking:
        raise ConfigurationError(
            f"task.{name}.fewshot_as_multiturn needs a chat template, and checkpoint `{lacking[0]}` has none",
            hint="remove it: examples stand before the question as plain text",
        )
    return entry.model_copy(update={"chat_template": not lacking})
