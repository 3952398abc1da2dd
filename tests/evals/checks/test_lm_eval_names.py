"""The index of stock tasks is lm-eval's own, and is found again on disk."""

from __future__ import annotations

from pathlib import Path

from evals.checks.lm_eval_names import lm_eval_folder, scan_tasks, stock_tasks, vocabulary, yaml_files
from evals.checks.task_files import index_folder


def test_a_sample_of_lm_evals_folders_is_indexed_as_lm_eval_does() -> None:
    from lm_eval.tasks._index import Kind, TaskIndex

    for name in ("arc", "AraDiCE/piqa", "blimp", "mmlu/default", "glue", "aclue", "super_glue", "babi"):
        folder = lm_eval_folder() / "tasks" / name
        if not folder.is_dir():
            continue
        theirs = TaskIndex.build([folder])
        for mine in (scan_tasks(folder), index_folder(folder)[0]):
            assert mine.names == set(theirs), name
            files = {**mine.tasks, **mine.groups}
            assert files == {each: str(e.yaml_path) for each, e in theirs.items() if e.yaml_path}, name
            tags = {each: tuple(sorted(e.tags)) for each, e in theirs.items() if e.kind is Kind.TAG}
            assert mine.tags == tags, name


def test_keys_are_found_quoted_listed_commented_and_included(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("tag:\n  - shared # of all\n- 'flat'\ndataset_path: json\n")
    (tmp_path / "a.yaml").write_text("include: base\ntask: 'first one' # with a name\n")
    (tmp_path / "b.yaml").write_text('"task": second\n"tag": [x, "y"]\n')
    (tmp_path / "c.yaml").write_text("group: all\ntask:\n  - first one\n  - task: second\n    tag: inner\n")
    (tmp_path / "d.yaml").write_text("include: b.yaml\n")
    found = scan_tasks(tmp_path)
    assert (set(found.tasks), set(found.groups)) == ({"first one", "second"}, {"all"})
    assert found.tags == {
        "shared": ("first one",), "flat": ("first one",), "x": ("second",), "y": ("second",),
    }  # fmt: skip


def test_what_was_found_is_kept_and_a_damaged_copy_is_found_again(tmp_path: Path) -> None:
    words = vocabulary(cache=tmp_path)
    assert {"acc", "exact_match"} <= set(words.metrics)
    assert {"regex", "take_first"} <= set(words.filters)
    assert "multiple_choice" in words.output_types
    [kept] = tmp_path.glob("lm-eval-*-words.json")
    kept.write_text('{"keys": ["one"], "output_types": [], "metrics": [], "filters": []}')
    assert vocabulary(cache=tmp_path).keys == ("one",)
    kept.write_text('{"keys": ')
    assert vocabulary(cache=tmp_path) == words


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "acc" in vocabulary(cache=tmp_path / "file").metrics


def test_all_stock_tasks_are_there(known: Path) -> None:
    found = stock_tasks(cache=known)
    assert {"arc_easy", "hellaswag", "mmlu", "gsm8k"} <= found.names
    assert len(found.names) > len(yaml_files(lm_eval_folder() / "tasks")) / 2
