"""SmolLM2-135M-Instruct from its PyPI wheel as a checkpoint, and a shallower one derived from it.

The wheel holds a GGUF file with weights of 4 bits (Q4_1); the checkpoint has their exact values as float32.
The derived checkpoint lacks the decoder layers that change their input the least ("block influence",
Men et al. 2024, arXiv:2403.03853), measured on the calibration texts.

Usage: `python examples/smollm2/checkpoints.py DIRECTORY` writes the folders `smollm2-135m` and `smollm2-120m`
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from pipeline.demo.commands import say

HERE: Final = Path(__file__).parent
WHEEL: Final = HERE / "wheel.txt"
TEXTS: Final = HERE / "texts.jsonl"
WHOLE: Final = "smollm2-135m"
SHALLOW: Final = "smollm2-120m"
DROPPED_LAYERS: Final = 4
PROBE_TOKENS: Final = 128


def main() -> int:
    """Write both checkpoints into the directory given, unless they are there."""
    parser = argparse.ArgumentParser(description="Write the checkpoints of the SmolLM2 example.")
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    write_checkpoints(directory)
    return 0


def write_checkpoints(directory: Path) -> None:
    """Download the wheel (93 MB, with its hash checked) and write what is missing of the checkpoints."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not (directory / WHOLE).is_dir():
        say(f"{WHOLE}: the weights of {_wheel_name()} from PyPI (93 MB), as float32")
        with tempfile.TemporaryDirectory(dir=_existing(directory)) as scratch:
            _save(*_read_gguf(_gguf_of_wheel(Path(scratch))), to=directory / WHOLE)
    if not (directory / SHALLOW).is_dir():
        say(f"{SHALLOW}: without the {DROPPED_LAYERS} layers that change their input the least")
        network, tokenizer = _open(directory / WHOLE)
        _drop_layers(network, _least_influential(network, tokenizer, count=DROPPED_LAYERS))
        _save(network, tokenizer, to=directory / SHALLOW)


def _wheel_name() -> str:
    """Name and version, as the requirements file has them."""
    lines = WHEEL.read_text(encoding="utf-8").splitlines()
    return next(line.split()[0] for line in lines if not line.startswith("#"))


def _gguf_of_wheel(scratch: Path) -> Path:
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(WHEEL)),
            *("--dest", str(scratch)),
        ],
        check=True,
    )
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, scratch))


def _read_gguf(path: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """The checkpoint in a GGUF file, its quantized weights as the float32 values that they stand for."""
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    del read.config.quantization_config  # what is saved is not quantized
    network = LlamaForCausalLM(read.config)
    network.load_state_dict(read.state_dict())
    return network.eval(), tokenizer


def _open(path: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    network = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    return network, AutoTokenizer.from_pretrained(path)


def _least_influential(
    network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, *, count: int
) -> list[int]:
    """The layers whose output is closest to their input, by mean cosine distance over the texts' tokens."""
    influence = torch.zeros(network.config.num_hidden_layers - 1)  # the last one's output is normalised
    for line in TEXTS.read_text(encoding="utf-8").splitlines():
        ids = tokenizer(json.loads(line)["text"], return_tensors="pt").input_ids[:, :PROBE_TOKENS]
        with torch.no_grad():
            states = network.model(ids, output_hidden_states=True).hidden_states
        for layer in range(len(influence)):
            likeness = torch.nn.functional.cosine_similarity(states[layer], states[layer + 1], dim=-1)
            influence[layer] += 1 - likeness.mean()
    return sorted(int(layer) for layer in influence.argsort()[:count])


def _drop_layers(network: LlamaForCausalLM, dropped: list[int]) -> None:
    kept = [layer for number, layer in enumerate(network.model.layers) if number not in dropped]
    for number, layer in enumerate(kept):
        layer.self_attn.layer_idx = number
    network.model.layers = torch.nn.ModuleList(kept)
    network.config.num_hidden_layers = len(kept)


def _save(network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, *, to: Path) -> None:
    """Write a checkpoint whole or not at all."""
    partial = to.with_name(to.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    network.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(to)


def _existing(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


if __name__ == "__main__":
    sys.exit(main())
