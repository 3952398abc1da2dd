import json
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest

import pipeline.demo
from evals.tasks.catalog import TASK_TYPES

pytest.importorskip("lm_eval", reason="install `rung[eval]`")
pytest.importorskip("accelerate", reason="lm-eval's `hf` backend needs it")

from pipeline.demo.record import TrainingRecord
from pipeline.demo.score import score_checkpoint
from pipeline.demo.shape import SHAPES

FAMILY = Path(pipeline.demo.__file__).parent / "family"
GOOD = 0.85
GOOD_TASK_TYPES = 4
SAMPLES = 60

each_checkpoint = pytest.mark.parametrize("name", SHAPES)


def record_of(name: str) -> TrainingRecord:
    return TrainingRecord.model_validate_json((FAMILY / name / "training.json").read_text())


@each_checkpoint
def test_the_weights_are_those_of_the_training_record(name: str) -> None:
    weights = (FAMILY / name / "model.safetensors").read_bytes()
    assert sha256(weights).hexdigest() == record_of(name).weights_sha256


@each_checkpoint
def test_a_checkpoint_has_the_recorded_shape(name: str) -> None:
    configuration = json.loads((FAMILY / name / "config.json").read_text())
    shape = SHAPES[name]
    assert configuration["architectures"] == ["LlamaForCausalLM"]
    assert configuration["hidden_size"] == shape.width
    assert configuration["num_hidden_layers"] == shape.layers
    assert configuration["num_key_value_heads"] == shape.shared_heads


@each_checkpoint
def test_a_card_states_the_licence(name: str) -> None:
    assert "license: apache-2.0" in (FAMILY / name / "README.md").read_text()


def test_each_checkpoint_is_weaker_than_the_one_before_on_most_task_types() -> None:
    scores = [record_of(name).scores for name in SHAPES]
    for better, worse in pairwise(scores):
        apart = [name for name in TASK_TYPES if better[name]["mean"] - worse[name]["mean"] >= 0.1]
        assert len(apart) >= 3


def test_the_flagship_is_recorded_as_good_on_four_task_types() -> None:
    scores = record_of("flagship").scores
    assert sum(scores[name]["mean"] >= GOOD for name in TASK_TYPES) >= GOOD_TASK_TYPES


def test_the_flagship_scores_through_lm_eval_what_its_record_says() -> None:
    recorded = record_of("flagship").scores
    measured = score_checkpoint(FAMILY / "flagship", limit=SAMPLES)
    for name in TASK_TYPES:
        # Four standard errors of a mean of two times sixty samples, at most.
        assert measured[name]["mean"] == pytest.approx(recorded[name]["mean"], abs=0.13)
