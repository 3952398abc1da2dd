"""Static graphs in ONNX Runtime: the session's promises, and parity with torch for every architecture."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compilers.model.torch_reference import TorchSession
from compilers.model.weights import read_layout
from compilers.plan_file import PLAN_NAME
from compilers.quantize.canonical import dequantized_state
from compilers.runtime import Segment, Session
from compilers.static.graph import StaticForm, write_static
from compilers.static.onnx_step import open_onnx_session
from compilers.static.plan import read_plan, write_plan
from compilers.toolchain import LoweringInput
from registry.errors import LoadError
from tests.checkpoints import make_checkpoint
from tests.compilers.outliers import plant_outliers
from tests.compilers.session_contract import SessionContract, draw
from tests.compilers.shapes import SHAPES
from tests.compilers.static.sources import source_of

FORM = StaticForm(context=128, tokens=32)


@pytest.fixture(scope="session")
def open_static(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Session]:
    """A session over the static graphs of a checkpoint, and what they were made from."""

    def make(
        checkpoint: Path, *, recipe: str = "fp32", form: StaticForm = FORM
    ) -> tuple[Session, LoweringInput]:
        out = tmp_path_factory.mktemp("static")
        source = source_of(checkpoint, out, recipe=recipe)
        write_static(source, form, out=out)
        return open_onnx_session(out), source

    return make


class TestStaticSession(SessionContract):
    @pytest.fixture(scope="class", params=["llama", "qwen2 with a window on one layer"])
    @classmethod
    def session(
        cls, request: pytest.FixtureRequest, checkpoint_of: Callable[..., Path], open_static: Any
    ) -> Session:
        return open_static(checkpoint_of(**SHAPES[request.param]))[0]


class TestQuantizedStaticSession(SessionContract):
    @pytest.fixture(scope="class", params=["w4g32-rtn", "w8g32-rtn"])
    @classmethod
    def session(
        cls, request: pytest.FixtureRequest, checkpoint_of: Callable[..., Path], open_static: Any
    ) -> Session:
        return open_static(checkpoint_of(architecture="LlamaForCausalLM"), recipe=request.param)[0]


class TestRoundingStaticSession(SessionContract):
    tolerance = 5e-3  # a sum in another order may round one activation to the next integer

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, checkpoint_of: Callable[..., Path], open_static: Any) -> Session:
        return open_static(checkpoint_of(architecture="LlamaForCausalLM"), recipe="w8a8-dynamic")[0]


class TestHalfPrecisionStaticSession(SessionContract):
    tolerance = 5e-3

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, checkpoint_of: Callable[..., Path], open_static: Any) -> Session:
        form = StaticForm(context=128, tokens=32, compute="float16", ids="int32")
        return open_static(checkpoint_of(architecture="LlamaForCausalLM"), recipe="fp16", form=form)[0]


def compare(session: Session, reference: Session, *, atol: float) -> None:
    """The same logits through prefill in uneven pieces and through decode."""
    tokens = draw(7, 70)
    expected = reference.forward(reference.new_cache(rows=1, capacity=70), [Segment(0, tokens, "all")])[0]
    cache = session.new_cache(rows=1, capacity=70)
    bounds = (0, 40, 43, *range(44, 50), 70)
    found = [
        session.forward(cache, [Segment(0, tokens[begin:end], "all")])[0] for begin, end in pairwise(bounds)
    ]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("shape", SHAPES)
def test_float_logits_are_torchs_in_prefill_and_decode(
    shape: str, checkpoint_of: Callable[..., Path], open_static: Any
) -> None:
    checkpoint = checkpoint_of(**SHAPES[shape])
    compare(open_static(checkpoint)[0], TorchSession(checkpoint), atol=2e-5)


@pytest.mark.parametrize("recipe", ["fp16", "w4g32-rtn", "w8g32-rtn"])
def test_dequantized_logits_are_those_of_the_dequantized_weights(
    recipe: str, checkpoint_of: Callable[..., Path], open_static: Any
) -> None:
    checkpoint = checkpoint_of(architecture="Qwen2ForCausalLM", tie_word_embeddings=True)
    session, source = open_static(checkpoint, recipe=recipe)
    reference = TorchSession(checkpoint, weights=dequantized_state(source.weights, source.recipe))
    compare(session, reference, atol=2e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_inputs_with_outliers_are_not_rounded(bias: bool, tmp_path: Path, open_static: Any) -> None:
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint", architecture="Qwen2ForCausalLM" if bias else "LlamaForCausalLM"
    )
    plant_outliers(checkpoint, {"model.layers.0.input_layernorm.weight": {3: 60.0}})
    session, source = open_static(checkpoint, recipe="w8a8-dynamic")
    wide = read_layout(source.weights).wide_inputs
    assert {f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"} <= wide
    reference = TorchSession(checkpoint, weights=dequantized_state(source.weights, source.recipe))
    tokens = draw(7, 60)
    found, expected = (
        one.forward(one.new_cache(rows=1, capacity=60), [Segment(0, tokens, "all")])[0]
        for one in (session, reference)
    )
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


def test_a_plan_of_other_graphs_is_refused(checkpoint_of: Callable[..., Path], tmp_path: Path) -> None:
    source = source_of(checkpoint_of(architecture="LlamaForCausalLM"), tmp_path, recipe="fp32")
    plan = write_static(source, FORM, out=tmp_path)
    assert read_plan(tmp_path / PLAN_NAME) == plan
    write_plan(plan.model_copy(update={"layers": 1}), tmp_path / PLAN_NAME)
    with pytest.raises(LoadError, match="not those of its plan"):
        open_onnx_session(tmp_path)
    (tmp_path / PLAN_NAME).write_text("{}", encoding="utf-8")
    with pytest.raises(LoadError, match="not a plan in the format"):
        open_onnx_session(tmp_path)
