from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file

from registry.artifact import Manifest, ModelFacts
from registry.digest import digest_bytes
from registry.store import Store

if TYPE_CHECKING:
    from registry.checkpoint import Checkpoint
    from registry.mlflow import Checkpoints

MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> MakeCheckpoint:
    return lambda name="checkpoint", **options: write_checkpoint(tmp_path / name, **options)


@pytest.fixture(scope="session")
def make_manifest() -> Callable[..., Manifest]:
    return build_manifest


@pytest.fixture(scope="session")
def write() -> MakeCheckpoint:
    return write_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the module's registry and its checkpoints are."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def checkpoints(place: Path) -> Checkpoints:
    """A registry of its own for each module; a node has no database package to import it with."""
    from registry.mlflow import Checkpoints

    return Checkpoints(uri=f"sqlite:///{place}/mlflow.db", store=Store.create(place / "store"))


@pytest.fixture(scope="module")
def flagship(checkpoints: Checkpoints, place: Path, write: MakeCheckpoint) -> Checkpoint:
    """A registered checkpoint."""
    return checkpoints.add(write(place / "flagship", seed=1), name="flagship", family="demo", alias="prod")


def logged_models(checkpoints: Checkpoints, name: str) -> list[str]:
    """States of the logged models of a name."""
    from registry.mlflow_client import open_client

    with open_client(checkpoints.uri) as client:
        experiment = client.get_experiment_by_name("rung").experiment_id
        return [str(one.status) for one in client.search_logged_models([experiment]) if one.name == name]


def write_checkpoint(path: Path, *, seed: int = 0, shards: int = 1, **config: object) -> Path:
    """A tiny checkpoint in the Hugging Face layout, with random weights."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    tensors = {
        "model.embed_tokens.weight": rng.standard_normal((16, 8)).astype(np.float32),
        "model.norm.weight": np.ones(8, dtype=np.float32),
    }
    if shards == 1:
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    else:
        mapping = {}
        for number, (name, tensor) in enumerate(tensors.items(), start=1):
            file = f"model-{number:05d}-of-{shards:05d}.safetensors"
            save_file({name: tensor}, path / file)
            mapping[name] = file
        index = {"metadata": {"total_size": 0}, "weight_map": mapping}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    names = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    about = {**names, "vocab_size": 16, "hidden_size": 8, **config}
    (path / "config.json").write_text(json.dumps({k: v for k, v in about.items() if v is not None}))
    vocabulary = {"type": "WordLevel", "vocab": {"<s>": 0, "a": 1}, "unk_token": "a"}
    (path / "tokenizer.json").write_text(json.dumps({"model": vocabulary, "post_processor": None}))
    return path


FACTS = ModelFacts(
    architecture="LlamaForCausalLM", vocab_size=16, hidden_size=8, layers=1, heads=1, kv_heads=1, head_size=8,
    max_context=64, add_bos=False,
)  # fmt: skip


def build_manifest(store: Store, *, data: bytes = b"weights") -> Manifest:
    blob = store.add_bytes(data)
    return Manifest(
        build_key=digest_bytes(b"key" + data), format="onnxruntime", toolchain="onnxruntime",
        toolchain_version="1.31", target="cpu-x86-64-v3",
        checkpoint="demo/1",
        checkpoint_digest=digest_bytes(b"c"), family="demo", licence="Apache-2.0", recipe="w4g32-gptq",
        facts=FACTS,
        files=(blob.at("model.onnx"), blob.at("weights.safetensors")), entry="model.onnx",
        memory_bytes=1, kv_bytes_per_token=1,
    )  # fmt: skip
