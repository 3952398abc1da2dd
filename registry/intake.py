"""Reading and checking a checkpoint directory (Hugging Face layout) before it is registered.

What passes has a readable configuration, whole and finite safetensors
weights, a tokenizer, and a digest that does not depend on file order. Whether its architecture can be
exported is decided at export. Nothing in a checkpoint is ever executed or unpickled.

Names that begin with a dot (`.git`, `.cache`, `.gitattributes`) and the files that MLflow and Rung themselves
put next to a checkpoint are not part of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from pydantic import Field

from registry.checkpoint import FileEntry
from registry.digest import Digest, digest_file, digest_tree
from registry.errors import CheckpointError
from registry.leftovers import refuse_leftovers
from registry.licence import read_licence
from registry.post_processor import read_affixes
from registry.value import Value
from registry.weights import TensorEntry, first_non_finite, read_header

FACTS_NAME: Final = "rung.json"
"""File name of the facts, stored next to a checkpoint in MLflow."""
NOT_PART: Final = frozenset({FACTS_NAME, "MLmodel", "registered_model_meta"})
"""Files of MLflow and Rung at the top of a downloaded checkpoint."""
_SINGLE = "model.safetensors"
_SHARDS = "model.safetensors.index.json"
_OTHER_FORMS = (".safetensors", ".gguf", ".onnx", ".ot", ".nemo", ".npz")
"""Suffixes of weight files, to name one where the right ones are missing."""
_COUNTS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "intermediate_size", "max_position_embeddings", "head_dim",
)  # fmt: skip
_OTHER_NAMES = frozenset({("RWForCausalLM", "falcon"), ("LLaMAForCausalLM", "llama")})
"""Architecture and model type that belong together and are not called alike."""


class CheckpointFacts(Value):
    """The contents of a checkpoint, as found by reading it."""

    schema_version: Literal[1] = 1
    digest: Digest
    """Digest of the tree of `files`."""
    files: tuple[FileEntry, ...]
    """Sorted by path."""
    architecture: str
    """First entry of the configuration's `architectures`."""
    parameters: int = Field(ge=0)
    """Number of parameters in the weight files; tied weights count once."""
    licence: str
    """SPDX identifier from the model card or licence file, or `unknown`."""
    add_bos: bool
    """Whether the tokenizer puts BOS before a prompt."""


def read_checkpoint(path: Path) -> CheckpointFacts:
    """Read and check a checkpoint directory.

    Raises:
        CheckpointError: Something is missing, damaged, not finite, pickled or of a wrong type; the message
        names it.
    """
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise CheckpointError(
            f"checkpoint `{path}` {what}",
            hint="give a directory with config.json, tokenizer.json and safetensors",
        )
    names = _list_files(path)
    refuse_leftovers(path, names)
    config = read_json(path / "config.json", hint="give a directory in the Hugging Face layout")
    architecture = _check_config(config, where=path / "config.json")
    tensors = _check_weights(path, names=names)
    add_bos = _check_tokenizer(path, config=config)
    entries = tuple(_entry(path, name) for name in names)
    return CheckpointFacts(
        digest=digest_tree({entry.path: entry.digest for entry in entries}),
        files=entries,
        architecture=architecture,
        parameters=_count_parameters(tensors, config=config),
        licence=read_licence(path),
        add_bos=add_bos,
    )


def weight_files(path: Path) -> list[Path]:
    """The safetensors files that hold a checkpoint's weights: one, or the shards that its index names.

    Raises:
        CheckpointError: There are none, both forms are there, or the index is not valid.
    """
    single, index = path / _SINGLE, path / _SHARDS
    if single.is_file() and index.is_file():
        _refuse(
            f"`{path}` holds both {_SINGLE} and {_SHARDS}",
            hint="remove the one that is out of date, so that it is clear which weights are meant",
        )
    if single.is_file():
        return [single]
    if index.is_file():
        return [path / name for name in sorted(set(_weight_map(index).values()))]
    found = sorted(one.name for one in path.iterdir() if one.suffix in _OTHER_FORMS)
    also = f" (there is `{found[0]}`)" if found else ""
    raise CheckpointError(
        f"`{path}` holds no {_SINGLE} and no {_SHARDS}{also}",
        hint="save the model with `save_pretrained(…)`, which writes safetensors under these names",
    )


def read_json(path: Path, *, hint: str) -> dict[str, Any]:  # Any: JSON
    """The JSON object in a file; NaN and infinity are refused.

    Raises:
        CheckpointError: The file is missing, or holds no JSON object.
    """
    try:
        document = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_no_constant)
    except FileNotFoundError as error:
        raise CheckpointError(f"no `{path.name}` in `{path.parent}`", hint=hint) from error
    except OSError as error:
        raise CheckpointError(
            f"cannot read `{path}`: {error.strerror}", hint="check its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"`{path}` is not JSON: {error}", hint="download or save it again") from error
    if not isinstance(document, dict):
        _refuse(
            f"`{path}` holds a JSON {type(document).__name__}, not an object",
            hint="download or save it again",
        )
    return document


def _list_files(path: Path) -> list[str]:
    """Relative POSIX paths of all files of a checkpoint, sorted; refuses what cannot be accepted."""
    found = []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if (Path(folder) / name).is_symlink():
                _refuse(
                    f"`{Path(folder) / name}` links to a directory",
                    hint="replace the link with the directory itself",
                )
        for name in files:
            file = Path(folder) / name
            relative = file.relative_to(path).as_posix()
            if name.startswith(".") or relative in NOT_PART:
                continue
            _check_file(file)
            found.append(relative)
    return sorted(found)


def _check_file(file: Path) -> None:
    try:
        file.name.encode("utf-8")
    except UnicodeEncodeError:
        _refuse(f"`{file!r}` has a name that is not UTF-8", hint="rename it")
    if not file.is_file():
        _refuse(f"`{file}` is a broken link or a special file", hint="remove it, or fetch what it links to")


def _check_config(config: Mapping[str, Any], *, where: Path) -> str:  # Any: JSON
    """The architecture; checks the form of the configuration first."""
    names = config.get("architectures")
    if names is None:
        _refuse(f"`{where}` has no `architectures`", hint='add what it is, such as ["LlamaForCausalLM"]')
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        _refuse(
            f"`{where}`: architectures must be a list of names, got {str(names)[:60]!r}",
            hint='write it as ["LlamaForCausalLM"]',
        )
    for key in _COUNTS:
        value = config.get(key)
        if value is not None and (type(value) is not int or value <= 0):
            _refuse(
                f"`{where}`: {key} must be a positive integer, got {value!r}",
                hint="correct the configuration",
            )
    _check_names(str(names[0]), config.get("model_type"), where=where)
    return str(names[0])


def _check_names(architecture: str, model_type: object, *, where: Path) -> None:
    """`architectures` and `model_type` say the same: transformers goes by the latter, others by the former.

    A class is named after its model type (`Qwen2ForCausalLM` and `qwen2`); known exceptions pass.
    """
    stem = re.split(r"For[A-Z]|LMHead|Model$", architecture)[0]
    if not isinstance(model_type, str):
        _refuse(
            f"`{where}` has no `model_type`, by which transformers chooses the architecture",
            hint=f'add what it is, such as "{stem.lower()}" for {architecture}',
        )
    if _squeezed(stem) != _squeezed(model_type) and (architecture, model_type) not in _OTHER_NAMES:
        _refuse(
            f"`{where}`: `architectures` is {architecture} and `model_type` is `{model_type}`; transformers "
            "goes by the latter and would run another network",
            hint="take config.json from the checkpoint's publisher",
        )


def _squeezed(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _check_weights(path: Path, *, names: list[str]) -> dict[str, TensorEntry]:
    """All tensors of the weight files; checks first that they are complete and finite."""
    files = weight_files(path)
    mapping = _weight_map(path / _SHARDS) if (path / _SHARDS).is_file() else None
    for name in names:
        if (
            mapping is not None
            and re.fullmatch(r"model-\d+-of-\d+\.safetensors", name)
            and path / name not in files
        ):
            _refuse(
                f"`{path / name}` is a shard that `{_SHARDS}` does not name",
                hint="download both together again",
            )
    tensors: dict[str, TensorEntry] = {}
    for file in files:
        if file.name not in names:
            _refuse(
                f"`{path / _SHARDS}` names `{file.name}`, which is not there",
                hint="download the missing shard",
            )
        found = read_header(file)
        for name in found:
            if mapping is not None and mapping.get(name) != file.name:
                _refuse(
                    f"`{file}` holds tensor `{name}`, which `{_SHARDS}` does not place there",
                    hint="the index belongs to other shards: download or save them together",
                )
        tensors.update(found)
        bad = first_non_finite(file, found)
        if bad is not None:
            _refuse(
                f"tensor `{bad}` in `{file}` holds NaN or infinity",
                hint="the training or the conversion that made it failed: take an earlier checkpoint",
            )
    for name, shard in (mapping or {}).items():
        if name not in tensors:
            _refuse(f"tensor `{name}` is not in shard `{shard}` of `{path}`", hint="download the shard again")
    return tensors


def _weight_map(index: Path) -> dict[str, str]:
    mapping = read_json(index, hint="download it again").get("weight_map")
    if not isinstance(mapping, dict) or not mapping:
        _refuse(f"`{index}` has no weight_map", hint="download or save it again")
    for name, shard in mapping.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[\w.-]+\.safetensors", shard):
            _refuse(
                f"`{index}` places tensor `{name}` in {str(shard)[:60]!r}, no safetensors file there",
                hint="download or save it again",
            )
    return mapping


def _check_tokenizer(path: Path, *, config: Mapping[str, Any]) -> bool:  # Any: JSON
    """Whether the tokenizer adds BOS; checks its files first."""
    where = path / "tokenizer.json"
    tokenizer = read_json(
        where, hint="save the fast tokenizer: `AutoTokenizer.from_pretrained(…).save_pretrained(…)`"
    )
    model = tokenizer.get("model")
    if not isinstance(model, dict) or "vocab" not in model:
        _refuse(f"`{where}` has no model with a vocabulary", hint="download or save it again")
    size, vocabulary = config.get("vocab_size"), model["vocab"]
    ids = vocabulary.values() if isinstance(vocabulary, dict) else ()
    if not isinstance(vocabulary, dict | list) or not all(type(number) is int for number in ids):
        _refuse(f"`{where}` has a vocabulary without ids", hint="download or save it again")
    last = max(vocabulary.values(), default=0) if isinstance(vocabulary, dict) else len(vocabulary) - 1
    if isinstance(size, int) and last >= size:
        _refuse(
            f"`{where}` has token ids up to {last}, but config.json has a vocab_size of {size}",
            hint="the tokenizer belongs to another checkpoint: replace it with the right one",
        )
    _check_added_tokens(tokenizer.get("added_tokens"), size=size, where=where)
    settings_path = path / "tokenizer_config.json"
    settings = read_json(settings_path, hint="") if settings_path.is_file() else {}
    return _adds_bos(tokenizer, bos=_token_text(settings.get("bos_token")), where=where)


def _check_added_tokens(added: object, *, size: object, where: Path) -> None:
    """Refuse added tokens beyond the embedding: no model can read a prompt that holds one."""
    beyond = []
    for token in added if isinstance(added, list) else ():
        match token:
            case {"id": int(number), "content": str(text)} if isinstance(size, int) and number >= size:
                beyond.append(f"`{text}` ({number})")
    if beyond:
        more = f" and {len(beyond) - 3} more" if len(beyond) > 3 else ""
        _refuse(
            f"`{where}` adds {', '.join(beyond[:3])}{more} beyond the embedding, which ends at id "
            f"{size - 1 if isinstance(size, int) else size}",
            hint="give the model rows for them (`model.resize_token_embeddings(len(tokenizer))`), or remove "
            "the tokens from the tokenizer's files",
        )


def _adds_bos(tokenizer: Mapping[str, Any], *, bos: str | None, where: Path) -> bool:  # Any: JSON
    """Whether the post-processor begins a prompt with BOS.

    transformers 5 drops `add_bos_token` of `tokenizer_config.json` where there is a `tokenizer.json`
    (`tokenization_utils_base.py`, `_from_pretrained`), so the post-processor alone decides.
    """
    affixes = read_affixes(tokenizer.get("post_processor"))
    if affixes.after:
        _refuse(
            f"`{where}` ends each prompt with `{affixes.after[0]}` (its post-processor), after which "
            "there is nothing to go on with",
            hint="that is for training texts: remove it from the post-processor (`add_eos_token=False`, then "
            "`save_pretrained`)",
        )
    if len(affixes.before) > 1:
        _refuse(
            f"`{where}` begins each prompt with {' and '.join(f'`{one}`' for one in affixes.before)} (its "
            "post-processor); only BOS can stand there",
            hint="leave BOS alone in the post-processor, and write the others in the chat template",
        )
    first = next(iter(affixes.before), None)
    if first is None:
        return False
    if bos is not None and first != bos:
        _refuse(
            f"`{where}` begins each prompt with `{first}`, which is not the BOS token `{bos}`",
            hint="correct bos_token in tokenizer_config.json, or the post-processor",
        )
    return True


def _token_text(token: object) -> str | None:
    """A token of `tokenizer_config.json`, given as text or as an object with `content`."""
    match token:
        case str(text) | {"content": str(text)}:
            return text
    return None


def _count_parameters(tensors: Mapping[str, TensorEntry], *, config: Mapping[str, Any]) -> int:  # Any: JSON
    """Parameters stored; a tied head that is stored anyway counts once, position tables do not count."""
    counted = {name: one for name, one in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
    if config.get("tie_word_embeddings") is True and "model.embed_tokens.weight" in counted:
        counted.pop("lm_head.weight", None)
    return sum(tensor.elements for tensor in counted.values())


def _entry(path: Path, name: str) -> FileEntry:
    file = path / name
    try:
        return FileEntry(path=name, digest=digest_file(file), size_bytes=file.stat().st_size)
    except OSError as error:
        raise CheckpointError(
            f"cannot read `{file}`: {error.strerror}", hint="check its permissions"
        ) from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse(message: str, *, hint: str) -> NoReturn:
    raise CheckpointError(message, hint=hint)
