"""An artifact loaded for measurement, exactly as a node would load it: from a verified bundle."""

from __future__ import annotations

from dataclasses import dataclass

from compilers.backend import find_runtime
from compilers.model.tokenizer import Tokenizer
from compilers.runtime import Bundle, Session
from matrices.cells.measurement import Measurement
from pipeline.stages.context import WorkerContext
from pipeline.stages.work.files import materialise_bundle
from registry.artifact import Manifest
from registry.target import Target, find_target
from serving.node.accelerator import ChipHere, chip_here
from serving.node.host import this_host


@dataclass(frozen=True, slots=True)
class LoadedArtifact:
    """A loaded artifact and what it runs on."""

    manifest: Manifest
    session: Session
    tokenizer: Tokenizer
    target: Target
    runtime_version: str
    chip: ChipHere

    def measurement(self) -> Measurement:
        """What something was measured on, just now."""
        return self.chip.measurement(runtime=self.manifest.format, runtime_version=self.runtime_version)


def load_artifact(manifest: Manifest, context: WorkerContext) -> LoadedArtifact:
    """Load an artifact from the store.

    Raises:
        LoadError: It does not load here.
    """
    host, target = this_host(), find_target(manifest.target)
    runtime = find_runtime(manifest.format)
    path = materialise_bundle(manifest, store=context.store, out=context.scratch / "bundle")
    session = runtime.load(Bundle(manifest=manifest, path=path), host, threads=context.threads)
    tokenizer = Tokenizer.from_directory(
        path, add_bos=manifest.facts.add_bos, eos_token_ids=manifest.facts.eos_token_ids
    )
    return LoadedArtifact(
        manifest=manifest,
        session=session,
        tokenizer=tokenizer,
        target=target,
        runtime_version=runtime.version(),
        chip=chip_here(target, host),
    )
