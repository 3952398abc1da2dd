"""Files of a checkpoint directory that are no part of a model: pickles, states of a training run, adapters.

Nothing pickled is ever opened, and nothing is left out silently: the refusal names the files and says what to
do with them, which differs. The state of an optimizer is removed, weights without a safetensors form are
converted, an adapter is merged. File names are those that the Trainer of transformers, Accelerate, DeepSpeed,
FSDP, PEFT and the publishers of weights use.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from registry.errors import CheckpointError

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".msgpack", ".h5", ".distcp")
_TRAINING = re.compile(
    r"(training_args|optimizer|optim|scheduler|lr_scheduler|scaler|rng_state|random_states|sampler|dl_state_dict"
    r"|trainer_state|custom_checkpoint|zero_pp_rank|bf16_zero_pp_rank|fp16_zero_pp_rank|mp_rank)(?![a-z])"
    r"|.*_(optim|model)_states\.pt$|.*\.distcp$|events\.out\.tfevents",
    re.IGNORECASE,
)
_TRAINING_FOLDER = re.compile(r"(global_step|pytorch_model_fsdp_|optimizer_|checkpoint-)\d+|runs")
_RUN_FOLDER = re.compile(r"checkpoint-\d+")
_ADAPTER = re.compile(r"adapter_(config\.json|model\..*)")
_WEIGHTS = re.compile(r"(pytorch_model|consolidated|tf_model|flax_model|model|weights)\b.*", re.IGNORECASE)
_CONVERT = (
    "save the weights as safetensors: `AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)`, without "
    "the pickle"
)
_LISTED = 8


def refuse_leftovers(path: Path, names: Sequence[str]) -> None:
    """Refuse a directory with files that are no part of a model.

    Args:
        path: The checkpoint directory.
        names: Relative POSIX paths of its files.

    Raises:
        CheckpointError: There are such files; it names them all.
    """
    runs = sorted({name.split("/")[0] for name in names if _RUN_FOLDER.match(name) and "/" in name})
    if runs:
        _refuse(
            f"`{path}` holds the checkpoints of a training run beside the model's files: {_listed(runs)}",
            hint=f"register one of them by its path, such as `{path / runs[-1]}`, or remove them",
        )
    adapters = [name for name in names if _ADAPTER.fullmatch(name)]
    if adapters:
        _refuse(
            f"`{path}` holds an adapter, not a model: {_listed(adapters)}",
            hint="merge it into its base (`merge_and_unload()` of PEFT) and register what that saves; remove "
            "these files if the weights beside them are merged already",
        )
    pickled = [name for name in names if _is_pickled(path / name)]
    if not pickled:
        return
    training = [name for name in pickled if _is_of_training(name)]
    others = [name for name in pickled if name not in training]
    kept = any(re.fullmatch(r"model.*\.safetensors", name) for name in names)
    one = f"`{path / pickled[0]}` is" if len(pickled) == 1 else f"in `{path}`, {_listed(pickled)} are"
    if not others:
        _refuse(
            f"{one} pickled: the state of a training run",
            hint=f"remove what holds no weights of the model: {_remove(training)}",
        )
    if kept:
        hint = f"the weights are there as safetensors: remove the others: {_remove(pickled)}"
    elif any(_WEIGHTS.fullmatch(name.rsplit("/", 1)[-1]) for name in others):
        hint = _CONVERT + (f"; remove {_listed(training)}, which hold no weights" if training else "")
    else:
        hint = f"remove what is not part of the model; if they are its weights, {_CONVERT}"
    _refuse(f"{one} pickled (or another executable form of weights)", hint=hint)


def _is_of_training(name: str) -> bool:
    *folders, file = name.split("/")
    return _TRAINING.match(file) is not None or any(_TRAINING_FOLDER.fullmatch(one) for one in folders)


def _is_pickled(file: Path) -> bool:
    """Whether a file is pickled, by its name or its first bytes: a pickle's or a torch archive's."""
    if file.suffix == ".safetensors":
        return False
    if file.suffix.lower() in _PICKLED:
        return True
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise CheckpointError(
            f"cannot read `{file}`: {error.strerror}", hint="check its permissions"
        ) from error
    return (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")) or (
        head[:4] == b"PK\x03\x04" and b"data.pkl" in head
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(f"`{name}`" for name in names[:_LISTED]) + more


def _remove(names: Sequence[str]) -> str:
    return f"{_listed(names)}, or copy the model's own files to another directory"


def _refuse(message: str, *, hint: str) -> NoReturn:
    raise CheckpointError(message, hint=hint)
