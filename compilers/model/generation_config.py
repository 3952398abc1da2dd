"""`generation_config.json` of a checkpoint: which tokens end a text. The only reader of that file.

Source: `GenerationConfig` of transformers 5. Its sampling settings (temperature, top_p, top_k, penalties) are
not applied, neither by the server nor in evaluations: docs/reference says what a request gets instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from compilers.model.checkpoint_json import read_object
from registry.errors import CheckpointError

FILE: Final = "generation_config.json"
_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "repetition_penalty": (None, 1, 1.0),
    "encoder_repetition_penalty": (None, 1, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None, []),
    "force_words_ids": (None, []),
    "sequence_bias": (None, [], {}),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "num_beams": (None, 1),
    "guidance_scale": (None, 1, 1.0),
}
"""Settings that change what transformers generates even without sampling → values that change nothing."""


def read_ends(directory: Path, *, otherwise: Sequence[int] | None = None) -> tuple[int, ...]:
    """The ids that end a text: those of `generation_config.json` if it names any, else of `config.json`.

    Chat checkpoints end turns with other tokens than `config.json` names. Where `generation_config.json` is
    there without an `eos_token_id`, transformers stops nowhere; here `config.json` counts.

    Args:
        directory: The checkpoint's; the file may be missing.
        otherwise: What `config.json` names, with its architecture's default; None: as that file is written.

    Raises:
        CheckpointError: One of the files cannot be read, or names something that is no token id.
    """
    own = _ids(directory / FILE)
    if own:
        return own
    return _ids(directory / "config.json") if otherwise is None else tuple(otherwise)


def settings_not_applied(directory: Path) -> dict[str, object]:
    """Settings of `generation_config.json` that change what transformers generates without sampling.

    Raises:
        CheckpointError: The file cannot be read.
    """
    document = read_object(directory / FILE)
    return {
        name: document[name]
        for name, neutral in _NEUTRAL.items()
        if name in document and document[name] not in neutral
    }


def _ids(path: Path) -> tuple[int, ...]:
    value = read_object(path).get("eos_token_id")
    several = value if isinstance(value, list) else [] if value is None else [value]
    for one in several:
        if isinstance(one, bool) or not isinstance(one, int) or one < 0:
            raise CheckpointError(
                f"{path}: `eos_token_id` is {value!r}, which is neither a token id nor a list of them",
                hint=f"compare {path.name} with the one that the checkpoint's publisher gives",
            )
    return tuple(dict.fromkeys(several))
