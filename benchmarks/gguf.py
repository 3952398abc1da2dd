"""The checkpoint in llama.cpp's own file format, GGUF, in float32 or quantized by llama.cpp itself.

llama.cpp's converter is a script in its repository that no wheel contains, so tensors are renamed here; the
tests and the KL divergence on the page compare what that network computes with torch. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from registry.errors import BuildError

GgufType = Literal["F32", "Q4_0", "Q8_0"]
FILE_NAME = "model.gguf"
ARCHITECTURE = "qwen2"
NAMES: Mapping[str, str] = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES: Mapping[str, str] = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Within layer N: `model.layers.N.X.weight` → `blk.N.Y.weight`."""


def make_gguf(checkpoint: Path, kind: GgufType, *, out: Path) -> Path:
    """Write `model.gguf` into the directory `out`.

    Raises:
        BuildError: llama.cpp could not quantize it, or the packages are not installed.
    """
    made = out / FILE_NAME
    if kind == "F32":
        _write(checkpoint, made)
        return made
    whole = out / "f32.gguf"
    _write(checkpoint, whole)
    try:
        _quantize(whole, kind, made)
    finally:
        whole.unlink()
    return made


def _write(checkpoint: Path, path: Path) -> None:
    try:
        import gguf
    except ImportError as error:
        raise BuildError("`gguf` is not installed", hint="install `rung[bench]`") from error
    config = json.loads((checkpoint / "config.json").read_bytes())
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")  # token ids go in and come out
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, values in _tensors(checkpoint / "model.safetensors"):
        writer.add_tensor(_renamed(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Tensors of a safetensors file of float32, mapped into memory."""
    data = np.memmap(path, np.uint8, mode="r")
    length = int(data[:8].view("<u8")[0])
    header: dict[str, Any] = json.loads(bytes(data[8 : 8 + length]))  # Any: JSON
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            yield name, data[begin:end].view("<f4").reshape(entry["shape"])


def _renamed(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    part, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{LAYER_NAMES[part]}.{kind}"


def _quantize(source: Path, kind: GgufType, out: Path) -> None:
    try:
        import llama_cpp
    except ImportError as error:
        raise BuildError("`llama-cpp-python` is not installed", hint="install `rung[bench]`") from error
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    failed = llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(parameters))
    if failed:
        raise BuildError(f"llama.cpp could not quantize to {kind}: {failed}", hint="see its log")
