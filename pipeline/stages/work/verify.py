"""Artifact → how close its logits are to torch's."""

from __future__ import annotations

from compilers.check.measure import measure_parity
from pipeline.stages.probe import ProbeOutput
from pipeline.stages.verify import VerifyOutput
from pipeline.stages.work.artifact import LoadedArtifact
from pipeline.stages.work.probe import load_error, load_probe
from registry.recipe import Recipe
from registry.store import Store


def verify(
    artifact: LoadedArtifact, *, recipe: Recipe, variant: ProbeOutput, checkpoint: ProbeOutput, store: Store
) -> VerifyOutput:
    """Run the probe through an artifact and compare its logits with torch's.

    Args:
        artifact: The loaded artifact.
        recipe: What was done to its weights.
        variant: What torch computes with the variant's weights.
        checkpoint: What torch computes with the checkpoint's.
        store: Where the probes are.
    """
    sequences, variant_logits = load_probe(store, variant)
    _, checkpoint_logits = load_probe(store, checkpoint)
    parity = measure_parity(
        artifact.session,
        probe=sequences,
        variant_logits=variant_logits,
        checkpoint_logits=checkpoint_logits,
        error=load_error(store, checkpoint),
        recipe=recipe,
        toolchain=artifact.manifest.toolchain,
    )
    return VerifyOutput(
        parity=parity,
        measurement=artifact.measurement(),
    )
