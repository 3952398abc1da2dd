"""From a variant and compiled files to the manifest of an artifact."""

from __future__ import annotations

from compilers.backend import find_backend, find_toolchain
from pipeline.build.plan import PlannedCell
from pipeline.stages.lower import LowerOutput
from registry.artifact import Manifest, ModelFacts
from registry.digest import digest_value
from registry.variant import Variant

SHIPPED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "LICENSE",
    "README.md",
)
"""Files of a checkpoint that go into every bundle, where they exist."""

KV_ELEMENT_BYTES = 4  # runtimes hold the KV cache in float32

PROCESS_BYTES = 300 << 20
"""What serving takes beside weights and KV cache: see `benchmarks/memory.py`, which measures it."""


def make_manifest(
    planned: PlannedCell,
    *,
    variant: Variant,
    facts: ModelFacts,
    lowered: LowerOutput,
    lower_key: str,
    toolchain_version: str,
) -> Manifest:
    """The manifest of one cell's artifact: compiled files, weights, tokenizer and configuration."""
    checkpoint = planned.checkpoint
    backend = find_backend(planned.toolchain)
    multiple = backend.format.kv_head_multiple
    head_size = -(-facts.head_size // multiple) * multiple
    shipped = [entry for entry in checkpoint.files if entry.path in SHIPPED]
    weights = [] if find_toolchain(planned.toolchain).embeds_weights else [variant.weights]
    files = sorted([*lowered.files, *shipped, *weights], key=lambda entry: entry.path)
    return Manifest(
        build_key=digest_value(
            {
                "checkpoint": checkpoint.digest,
                "recipe": planned.recipe,
                "lower": lower_key,
                "weights": variant.weights.digest,
            }
        ),
        format=backend.format.name,
        toolchain=planned.toolchain,
        toolchain_version=toolchain_version,
        target=planned.target.name,
        checkpoint=checkpoint.ref,
        checkpoint_digest=checkpoint.digest,
        family=checkpoint.family,
        licence=checkpoint.licence,
        recipe=planned.recipe.name,
        left_in_float=variant.left_in_float,
        wide_inputs=variant.wide_inputs,
        facts=facts,
        files=tuple(files),
        entry=lowered.entry,
        options=lowered.options,
        memory_bytes=PROCESS_BYTES + sum(entry.size_bytes for entry in [*weights, *lowered.files]),
        kv_bytes_per_token=2 * facts.layers * facts.kv_heads * head_size * KV_ELEMENT_BYTES,
    )
