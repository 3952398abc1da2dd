"""Code of task files: refused until a person names its digest, and again when it changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.task_code import find_code
from pipeline.consents import Consents, allowed_code
from registry.errors import ConfigurationError, RefusedError
from registry.ladder import TaskEntry

CODE = "task: own\ndoc_to_text: !function utils.text\n"
PLAIN = "task: own\ndoc_to_text: '{{q}}'\n"


@pytest.fixture
def ladder(tmp_path: Path) -> Path:
    """The directory of a ladder whose task type `mine` has code."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "own.yaml").write_text(CODE)
    (folder / "utils.py").write_text("def text(doc): return doc['q']\n")
    return tmp_path


def ask(ladder: Path, *given: str, folder: str = "mine") -> dict[str, str]:
    tasks = {
        "mine": TaskEntry(floor=(0.0,), tasks=("own",), include=folder),
        "retrieval": TaskEntry(floor=(0.0,)),
    }
    return allowed_code(
        tasks, directory=ladder, record=ladder / "consents.json", given=given, how="rung build LADDER"
    )


def digest(ladder: Path) -> str:
    code = find_code(ladder / "mine")
    assert code is not None
    return code.digest


def test_code_is_refused_with_the_files_to_read_and_the_flag_that_allows_it(ladder: Path) -> None:
    with pytest.raises(
        RefusedError, match=r"task\.mine run code of their own.*`own\.yaml`, `utils\.py`"
    ) as no:
        ask(ladder)
    assert f"`rung build LADDER --allow-code {digest(ladder)[7:19]}`" in no.value.hint
    assert not (ladder / "consents.json").exists()


@pytest.mark.parametrize("length", [12, 64, None])
def test_a_consent_is_recorded_and_lasts_as_long_as_the_code(ladder: Path, length: int | None) -> None:
    whole = digest(ladder)
    text = whole if length is None else whole[7 : 7 + length]
    assert ask(ladder, text) == {"mine": whole}
    assert ask(ladder) == {"mine": whole}
    (recorded,) = Consents.parse((ladder / "consents.json").read_bytes(), where="it").consents
    assert (recorded.digest, recorded.files) == (whole, ("own.yaml", "utils.py"))
    (ladder / "mine" / "data.jsonl").write_text("{}")
    assert ask(ladder) == {"mine": whole}, "data is no code"
    (ladder / "mine" / "utils.py").write_text("def text(doc): return 1\n")
    with pytest.raises(RefusedError):
        ask(ladder)


@pytest.mark.parametrize("text", ["", "yes", "0" * 64, "sha256:"])
def test_a_consent_to_nothing_in_particular_is_no_consent(ladder: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the digest of any task's code"):
        ask(ladder, text)
    with pytest.raises(ConfigurationError):
        ask(ladder, digest(ladder)[7:18])
    assert not (ladder / "consents.json").exists()


def test_tasks_without_code_need_none(ladder: Path) -> None:
    (ladder / "mine" / "own.yaml").write_text(PLAIN)
    assert ask(ladder) == {}


def test_a_consent_beside_the_task_files_does_not_count(ladder: Path) -> None:
    """Such as one that somebody put into a kit."""
    ask(ladder, digest(ladder))
    (ladder / "consents.json").rename(ladder / "mine" / "consents.json")
    with pytest.raises(RefusedError):
        ask(ladder)
    assert json.loads((ladder / "mine" / "consents.json").read_bytes())["consents"]
