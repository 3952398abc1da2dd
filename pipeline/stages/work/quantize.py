"""Checkpoint × recipe → variant, and what torch computes with its weights for the probe."""

from __future__ import annotations

import json
import os
import shutil
import time

from compilers.check.constants import check_graph, check_weights
from compilers.check.probe import make_probe
from compilers.check.torch_precision import exact_logits
from compilers.model.architecture import read_architecture
from compilers.model.network import read_network
from compilers.model.tokenizer import Tokenizer
from compilers.model.torch_reference import TorchSession
from compilers.quantize.canonical import dequantized_state
from compilers.quantize.coverage import check_coverage
from compilers.quantize.variant import quantize as quantize_weights
from pipeline.stages.context import WorkerContext
from pipeline.stages.quantize import QUANTIZE, QuantizeOutput, QuantizeRequest
from pipeline.stages.work.files import add_entry, materialise_checkpoint
from pipeline.stages.work.probe import read_texts, store_probe, tokenize
from registry.variant import WEIGHTS_NAME, Variant


def quantize(request: QuantizeRequest, context: WorkerContext) -> None:
    """Write the variant's weights and its probe.

    Raises:
        CheckpointError: The weights do not fit the configuration.
        BuildError: The recipe cannot be applied, or graph or weights are not the checkpoint's.
    """
    start = time.monotonic()
    checkpoint, recipe, facts, store = request.checkpoint, request.recipe, request.facts, context.store
    directory = materialise_checkpoint(checkpoint, store=store, out=context.scratch / "checkpoint")
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    architecture = read_architecture(config, where=checkpoint.ref)
    tokenizer = Tokenizer.from_directory(directory, add_bos=checkpoint.add_bos)
    texts = tokenize(read_texts(request.calibration), tokenizer, longest=facts.max_context)
    check_coverage(architecture, recipe)
    out = context.scratch / "variant"
    out.mkdir()
    saved = context.unfinished(request.key)
    made = quantize_weights(
        directory,
        recipe,
        architecture=architecture,
        out=out,
        calibration=texts,
        saved=saved,
        threads=max(context.threads, len(os.sched_getaffinity(0))),
        progress=context.report.progress,
    )
    weights = out / WEIGHTS_NAME
    context.report.progress("asking torch")
    sequences = make_probe(
        texts,
        vocab_size=facts.vocab_size,
        max_context=facts.max_context,
        window=architecture.largest_window,
    )
    session = TorchSession(directory)
    graph = context.scratch / "graph"
    store.materialise([request.graph], out=graph)
    check_graph(read_network(graph / request.graph.path), session)
    check_weights(weights, session)
    session.replace_weights(dequantized_state(weights, recipe))
    variant = Variant(
        checkpoint=checkpoint.ref,
        checkpoint_digest=checkpoint.digest,
        recipe=recipe,
        graph=request.graph,
        weights=add_entry(store, weights, name=WEIGHTS_NAME),
        calibration_digest=made.calibration_digest,
        quantization_error=made.mean_error,
        left_in_float=made.left_in_float,
        wide_inputs=made.wide_inputs,
    )
    output = QuantizeOutput(
        variant=variant, probe=store_probe(store, sequences, exact_logits(session, sequences))
    )
    context.report.output(request.key, output, stage=QUANTIZE.name, seconds=time.monotonic() - start)
    shutil.rmtree(saved, ignore_errors=True)
