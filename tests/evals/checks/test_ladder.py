"""The problems of all task types of a ladder are said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.checks.ladder import check_ladder
from registry.errors import ConfigurationError
from registry.ladder import Ladder, TierEntry
from tests.evals.checks.folder import Folder


def ladder(**tasks: object) -> Ladder:
    return Ladder.model_validate(
        {
            "family": "f",
            "targets": ["cpu-x86-64-v3"],
            "tier": [TierEntry(checkpoint="a", recipes=("fp32",))],
            "task": tasks,
        }
    )


def test_a_good_ladder_has_no_warnings(folder: Folder, known: Path) -> None:
    good = ladder(retrieval={"floor": [0.5]}, own=folder.entry(margin_points=60.0).model_dump())
    assert check_ladder(good, directory=folder.root, cache=known) == ()


def test_all_problems_are_in_one_message(folder: Folder, known: Path) -> None:
    wrong = ladder(
        retreival={"floor": [0.5]},
        own=folder.entry(margin_points=1.0).model_dump(),
        retrieval={"floor": [0.5]},
    )
    with pytest.raises(ConfigurationError) as refused:
        check_ladder(wrong, directory=folder.root, cache=known)
    assert "2 task types" in refused.value.message
    assert "unknown task type `retreival`" in refused.value.message
    assert "takes 5 samples" in refused.value.message
