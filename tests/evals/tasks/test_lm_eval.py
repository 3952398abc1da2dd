import pytest
import yaml

from evals.tasks.catalog import FORMS, SAMPLES_PER_TASK, TASK_TYPES, TASKS_FOLDER, TaskType
from evals.tasks.scene import Form, prompt_of

lm_eval_tasks = pytest.importorskip("lm_eval.tasks", reason="install `rung[eval]`")


def test_every_task_type_is_a_group_of_two_tasks() -> None:
    manager = lm_eval_tasks.TaskManager(include_path=str(TASKS_FOLDER), include_defaults=False)
    assert set(manager.all_groups) == {task_type.group for task_type in TASK_TYPES.values()}
    assert set(manager.all_subtasks) == {
        task_type.task(form) for task_type in TASK_TYPES.values() for form in FORMS
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task_type", TASK_TYPES.values(), ids=TASK_TYPES)
def test_a_task_loads_in_lm_eval_and_renders_its_prompt(task_type: TaskType, form: Form) -> None:
    configuration = yaml.safe_load((task_type.folder / f"{form}.yaml").read_text())
    files = configuration["dataset_kwargs"]["data_files"]
    assert files == {"test": f"{form}.jsonl"}
    configuration["dataset_kwargs"]["data_files"] = {"test": str(task_type.folder / files["test"])}
    manager = lm_eval_tasks.TaskManager(include_path=str(TASKS_FOLDER), include_defaults=False)

    task = manager.load([configuration])["tasks"][task_type.task(form)]

    document = next(iter(task.test_docs()))
    assert len(task.test_docs()) == SAMPLES_PER_TASK
    assert task.doc_to_text(document) == prompt_of(document["context"], document["question"])
    if form == "generate":
        assert task.doc_to_target(document) == document["answer"]
    else:
        assert task.doc_to_choice(document) == document["choices"]
        assert task.doc_to_target(document) == document["gold"]
