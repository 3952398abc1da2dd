"""The chat template of a task type: the ladder's word, else what all of its checkpoints have."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from pipeline.build.prompting import decide_prompting, has_chat_template
from registry.checkpoint import Checkpoint, FileEntry
from registry.digest import digest_bytes
from registry.errors import ConfigurationError
from registry.ladder import Ladder


@dataclass
class Files:
    """Checkpoints that consist of small files."""

    contents: dict[str, bytes] = field(default_factory=dict)
    reads: int = 0

    def add(self, name: str, **files: str) -> Checkpoint:
        entries = []
        for path, text in files.items():
            data = text.encode()
            digest = digest_bytes(data)
            self.contents[digest] = data
            path = path.replace("__", "/").replace("_json", ".json").replace("_jinja", ".jinja")
            entries.append(FileEntry(path=path, digest=digest, size_bytes=len(data)))
        return Checkpoint(
            name=name, version="1", digest=digest_bytes(name.encode()), files=tuple(entries), family="f",
            architecture="LlamaForCausalLM", parameters=1, licence="unknown", add_bos=False,
        )  # fmt: skip

    def read_file(self, checkpoint: Checkpoint, file: FileEntry) -> bytes:
        self.reads += 1
        assert file in checkpoint.files
        return self.contents[file.digest]


def ladder(*checkpoints: Checkpoint, **task: object) -> Ladder:
    return Ladder.model_validate(
        {
            "family": "f",
            "targets": ["cpu-x86-64-v3"],
            "tier": [{"checkpoint": one.name, "recipes": ["fp32"]} for one in checkpoints],
            "task": {"retrieval": {"floor": [0.0] * len(checkpoints), **task}},
        }
    )


def decided(files: Files, *checkpoints: Checkpoint, **task: object) -> bool | None:
    found = decide_prompting(ladder(*checkpoints, **task), checkpoints, checkpoints=files)
    return found.task["retrieval"].chat_template


@pytest.mark.parametrize(
    ("files", "has"),
    [
        ({}, False),
        ({"tokenizer_config_json": "{}"}, False),
        ({"tokenizer_config_json": json.dumps({"chat_template": "{{ messages }}"})}, True),
        ({"chat_template_jinja": "{{ messages }}"}, True),
        ({"additional_chat_templates__tool_use_jinja": "{{ tools }}"}, False),
        ({"tokenizer_config_json": json.dumps({"chat_template": [{"name": "rag", "template": "x"}]})}, False),
        (
            {"tokenizer_config_json": json.dumps({"chat_template": [{"name": "default", "template": "x"}]})},
            True,
        ),
    ],
)
def test_a_template_is_found_where_transformers_looks_for_it(files: dict[str, str], has: bool) -> None:
    place = Files()
    assert has_chat_template(place.add("a", **files), checkpoints=place) is has


def test_checkpoints_decide_what_the_ladder_leaves_open() -> None:
    files = Files()
    chat, other = files.add("chat", chat_template_jinja="x"), files.add("other", chat_template_jinja="y")
    plain = files.add("plain")
    assert decided(files, chat, other) is True
    assert decided(files, plain) is False
    assert decided(files, chat, chat_template=False) is False
    assert decided(files, chat, chat_template=True) is True


def test_plain_text_reads_no_checkpoint() -> None:
    files = Files()
    decided(files, files.add("chat", chat_template_jinja="x"), chat_template=False)
    assert files.reads == 0


def test_a_ladder_that_mixes_both_has_to_choose() -> None:
    files = Files()
    mixed = (files.add("chat", chat_template_jinja="x"), files.add("plain"))
    with pytest.raises(
        ConfigurationError, match="`chat/1` has a chat template and `plain/1` has none"
    ) as error:
        decided(files, *mixed)
    assert "`chat_template = false` in [task.retrieval]" in error.value.hint
    assert decided(files, *mixed, chat_template=False) is False


@pytest.mark.parametrize("asked", ["chat_template", "fewshot_as_multiturn"])
def test_a_template_that_a_checkpoint_lacks_cannot_be_asked_for(asked: str) -> None:
    files = Files()
    with pytest.raises(ConfigurationError, match="`plain/1` has none"):
        decided(files, files.add("plain"), **{asked: True})
