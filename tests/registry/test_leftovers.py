"""What trainers, adapters and older formats leave in a checkpoint directory has its own remedy."""

from __future__ import annotations

import pickle
import shutil

import pytest

from registry.errors import CheckpointError
from registry.intake import read_checkpoint


def refusal(path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    return caught.value


def write(path, *names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(pickle.dumps({}))


@pytest.mark.parametrize(
    "name",
    [
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "scaler.pt",
        "rng_state.pth",
        "rng_state_3.pth",
        "optimizer.bin",
        "random_states_0.pkl",
        "sampler.bin",
        "custom_checkpoint_0.pkl",
        "global_step500/mp_rank_00_model_states.pt",
        "global_step500/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "pytorch_model_fsdp_0/__0_0.distcp",
    ],
)
def test_the_state_of_a_training_run_is_to_be_removed_not_converted(make_checkpoint, name):
    path = make_checkpoint()
    write(path, name)
    error = refusal(path)
    assert name in error.message
    assert "remove" in error.hint
    assert name in error.hint
    assert "save_pretrained" not in error.hint


def test_all_files_of_a_trainers_folder_are_named_at_once(make_checkpoint):
    path = make_checkpoint()
    names = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")
    write(path, *names)
    (path / "trainer_state.json").write_text("{}")
    error = refusal(path)
    assert all(name in error.message and name in error.hint for name in names)
    for name in names:
        (path / name).unlink()
    assert "trainer_state.json" in {file.path for file in read_checkpoint(path).files}


def test_pickled_weights_beside_safetensors_are_to_be_removed(make_checkpoint):
    path = make_checkpoint()
    write(path, "pytorch_model.bin", "original/consolidated.00.pth")
    error = refusal(path)
    assert "remove the others" in error.hint
    assert "`pytorch_model.bin`" in error.hint
    assert "`original/consolidated.00.pth`" in error.hint


@pytest.mark.parametrize(
    "names",
    [
        ("pytorch_model.bin",),
        ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "training_args.bin"),
        ("consolidated.00.pth",),
        ("tf_model.h5",),
        ("flax_model.msgpack",),
    ],
)
def test_pickled_weights_alone_are_to_be_converted(make_checkpoint, names):
    path = make_checkpoint()
    (path / "model.safetensors").unlink()
    write(path, *names)
    error = refusal(path)
    assert error.hint.startswith("save the weights as safetensors")
    assert ("training_args.bin" in error.hint) == ("training_args.bin" in names)


@pytest.mark.parametrize("kept", [True, False], ids=["with weights", "alone"])
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"])
def test_an_adapter_is_to_be_merged(make_checkpoint, name, kept):
    path = make_checkpoint()
    if not kept:
        (path / "model.safetensors").unlink()
    (path / name).write_bytes(b"{}")
    error = refusal(path)
    assert "an adapter, not a model" in error.message
    assert "merge" in error.hint


@pytest.mark.parametrize("kept", [True, False], ids=["with weights", "without"])
def test_the_checkpoints_of_a_run_are_named_one_is_to_be_chosen(make_checkpoint, kept):
    path = make_checkpoint()
    for step in (500, 1000):
        shutil.copytree(make_checkpoint(f"step{step}"), path / f"checkpoint-{step}")
    if not kept:
        (path / "model.safetensors").unlink()
    error = refusal(path)
    assert "`checkpoint-500`" in error.message
    assert "`checkpoint-1000`" in error.message
    assert str(path / "checkpoint-") in error.hint


@pytest.mark.parametrize("name", ["model.gguf", "model.onnx", "model.fp16.safetensors", "rust_model.ot"])
def test_weights_of_another_form_are_named(make_checkpoint, name):
    path = make_checkpoint()
    (path / "model.safetensors").rename(path / name)
    assert f"there is `{name}`" in refusal(path).message
