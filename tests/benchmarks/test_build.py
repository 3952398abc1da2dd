from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.build import build_all, lock_cache, step_directory
from benchmarks.steps import Export, Lower, Quantize
from registry.artifact import Manifest
from registry.errors import ConfigurationError
from serving.node.load import read_bundle
from tests.benchmarks.tiny import LOWERED, STEPS, Built

MIB = 2**20


def test_every_step_says_what_it_cost(built: Built):
    assert [record.error for record in built.records.values()] == [None, None, None]
    for record in built.records.values():
        assert record.seconds > 0
        assert 10 * MIB < record.peak_memory_bytes < 4096 * MIB


def test_a_bundle_is_one_that_a_node_accepts(built: Built):
    manifest = read_bundle(built.bundle, files="verify").manifest

    assert isinstance(manifest, Manifest)
    assert manifest.checkpoint_digest == built.facts.digest


def test_finished_steps_are_not_done_again(built: Built):
    again = build_all(STEPS, checkpoint=built.checkpoint, facts=built.facts, cache=built.cache)

    assert again == built.records


def test_another_checkpoint_is_built_anew(built: Built, tmp_path: Path):
    shutil.copytree(step_directory(built.cache, Export()), tmp_path / "export")
    shutil.copy(built.cache / "export.record.json", tmp_path)
    other = built.facts.model_copy(update={"digest": "sha256:" + "0" * 64})

    records = build_all([Export()], checkpoint=built.checkpoint, facts=other, cache=tmp_path)

    assert records["export"].key != built.records["export"].key


def test_a_step_that_fails_is_a_record_with_its_error_and_leaves_nothing(built: Built, tmp_path: Path):
    shutil.copytree(built.cache, tmp_path / "cache")
    step = Lower(toolchain="onnxruntime", recipe="fp32", target="cuda-sm90")

    records = build_all([step], checkpoint=built.checkpoint, facts=built.facts, cache=tmp_path / "cache")

    assert "cuda-sm90" in (records[step.name].error or "")
    assert not step_directory(tmp_path / "cache", step).exists()
    assert not list((tmp_path / "cache").glob(".*"))


def test_the_peak_of_a_step_is_its_own_and_not_its_parents(built: Built, tmp_path: Path):
    ballast = np.ones(600 * MIB, np.uint8)

    records = build_all([Export()], checkpoint=built.checkpoint, facts=built.facts, cache=tmp_path)

    assert ballast[-1] == 1
    assert records["export"].peak_memory_bytes < 500 * MIB


def test_two_runs_do_not_share_a_cache(tmp_path: Path):
    with (
        lock_cache(tmp_path),
        pytest.raises(ConfigurationError, match="another benchmark runs"),
        lock_cache(tmp_path),
    ):
        pass
    with lock_cache(tmp_path):
        pass


def test_what_was_quantized_is_shared_with_the_bundle(built: Built):
    weights = step_directory(built.cache, Quantize(recipe="fp32")) / "weights.safetensors"

    assert (built.bundle / "weights.safetensors").samefile(weights)
    assert built.records[LOWERED.name].size_bytes < MIB
