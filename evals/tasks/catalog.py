"""The table of shipped task types: name in a ladder file, lm-eval group, folder, source of the samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from evals.tasks.extraction.scene import draw_extraction
from evals.tasks.instruction_following.scene import draw_instruction_following
from evals.tasks.reasoning.scene import draw_reasoning
from evals.tasks.retrieval.scene import draw_retrieval
from evals.tasks.scene import Form, SceneSource
from evals.tasks.tool_calling.scene import draw_tool_calling

TASKS_FOLDER: Final = Path(__file__).parent
"""The folder to pass to lm-eval's `TaskManager(include_path=...)`."""
CALIBRATION_FILE: Final = TASKS_FOLDER / "calibration.jsonl"
"""Prompts with answers of the train split, one `text` per line, to calibrate quantization."""
FORMS: Final[tuple[Form, ...]] = ("choice", "generate")
"""The two tasks of every group."""
METRICS: Final[Mapping[Form, str]] = MappingProxyType({"choice": "acc", "generate": "exact_match"})
"""The lm-eval metric of each form; a task type's score is the mean of the two."""
SAMPLES_PER_TASK: Final = 1000


@dataclass(frozen=True, slots=True)
class TaskType:
    """One kind of work an agent does, measured by one lm-eval group."""

    name: str
    """The name in ladder files, scorecards and request headers."""
    source: SceneSource
    """Draws this task type's scenes."""
    seed: int
    """Seed of its multiple choices; its generations have the next number. Never changed once committed."""

    @property
    def slug(self) -> str:
        """The name as Python and lm-eval spell it."""
        return self.name.replace("-", "_")

    @property
    def folder(self) -> Path:
        """Folder of the YAML and JSONL files."""
        return TASKS_FOLDER / self.slug

    @property
    def group(self) -> str:
        """The lm-eval group."""
        return f"rung_{self.slug}"

    def task(self, form: Form) -> str:
        """Return the lm-eval task of one form."""
        return f"{self.group}_{form}"


TASK_TYPES: Final[Mapping[str, TaskType]] = MappingProxyType(
    {
        task_type.name: task_type
        for task_type in (
            TaskType("tool-calling", draw_tool_calling, seed=20_261_123),
            TaskType("extraction", draw_extraction, seed=20_261_125),
            TaskType("reasoning", draw_reasoning, seed=20_261_127),
            TaskType("retrieval", draw_retrieval, seed=20_261_129),
            TaskType("instruction-following", draw_instruction_following, seed=20_261_131),
        )
    }
)
"""Every task type by its name."""
