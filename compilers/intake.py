"""What a checkpoint must be to be compiled, checked before it is registered."""

from __future__ import annotations

from pathlib import Path

from compilers.model.architecture import KNOWN, read_architecture
from compilers.model.generation_config import read_ends
from compilers.model.tensor_check import check_tensors
from compilers.model.tokenizer_files import ids_beyond
from registry.errors import CheckpointError
from registry.intake import read_json, weight_files
from registry.weight_form import EMBEDDING, OUTPUT_MATRIX
from registry.weights import TensorEntry, read_header

_CHUNK_BYTES = 1 << 20


def check_compilable(path: Path) -> None:
    """Check a checkpoint directory that `read_checkpoint` accepted.

    An architecture that no compiler knows passes: whether it can be exported is decided at export.

    Raises:
        CheckpointError: config.json asks for something unsupported; a tensor is missing, unknown, or of
            another shape or type; a tied output matrix is not the embedding; a token of the tokenizer has no
            row in the embedding; generation_config.json cannot be read.
    """
    where = path / "config.json"
    config = read_json(where, hint="give a directory in the Hugging Face layout")
    if config["architectures"][0] not in KNOWN:
        return
    architecture = read_architecture(config, where=str(where))
    places = {name: (file, entry) for file in weight_files(path) for name, entry in read_header(file).items()}
    found = {name: (entry.dtype, entry.shape) for name, (_, entry) in places.items()}
    check_tensors(found, architecture, where=str(path))
    if architecture.tie_embeddings and OUTPUT_MATRIX in places:
        _check_tied(*places[OUTPUT_MATRIX], *places[EMBEDDING], where=path)
    read_ends(path, otherwise=architecture.eos_token_ids)
    beyond = ids_beyond(path, rows=architecture.vocab_size)
    if beyond:
        listed = ", ".join(f"`{text}` ({number})" for number, text in beyond[:3])
        more = f" and {len(beyond) - 3} more" if len(beyond) > 3 else ""
        raise CheckpointError(
            f"the tokenizer of `{path}` has {listed}{more} beyond the embedding, which ends at id "
            f"{architecture.vocab_size - 1}",
            hint="give the model rows for them (`model.resize_token_embeddings(len(tokenizer))`), or remove "
            "the tokens from the tokenizer's files",
        )


def _check_tied(
    head_file: Path, head: TensorEntry, file: Path, embedding: TensorEntry, *, where: Path
) -> None:
    """Refuse a stored output matrix that differs: versions of transformers do not agree on what to do."""
    if head.dtype != embedding.dtype or head.shape != embedding.shape:
        same = False
    else:
        with head_file.open("rb") as ours, file.open("rb") as theirs:
            ours.seek(head.start)
            theirs.seek(embedding.start)
            sizes = [_CHUNK_BYTES] * (head.size_bytes // _CHUNK_BYTES) + [head.size_bytes % _CHUNK_BYTES]
            same = all(ours.read(size) == theirs.read(size) for size in sizes)
    if not same:
        raise CheckpointError(
            f"`{where}`: tensor `{OUTPUT_MATRIX}` differs from `{EMBEDDING}`, to which "
            "`tie_word_embeddings` ties it",
            hint="set `tie_word_embeddings` to false in config.json if both are meant; if not, remove the "
            "tensor by loading and saving the model",
        )
