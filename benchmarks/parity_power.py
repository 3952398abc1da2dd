"""What float parity accepts and refuses: correct builds of real-shaped checkpoints, and planted faults.

    python -m benchmarks.parity_power [CHECKPOINT …]

Writes `benchmarks/PARITY.md`: the figures of each correct build, and for each fault its effect in float64 in
units of torch's own float32 error, with what an artifact that has it is judged. A fault is a change to the
weights or the configuration that an artifact is built from, while the reference stays as it was.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.machine import this_machine
from compilers.backend import find_runtime, find_toolchain
from compilers.check.bounds import FLOAT_BOUND
from compilers.check.constants import check_graph, check_weights
from compilers.check.float_error import FloatError, FloatFigures, float_figures, worst
from compilers.check.probe import Sequences, make_probe, reference_logits, stepwise_logits
from compilers.check.torch_precision import exact_logits, torch_error
from compilers.export.graph import export_graph
from compilers.model.architecture import model_facts, read_architecture
from compilers.model.network import read_network
from compilers.model.torch_reference import TorchSession
from compilers.quantize.canonical import dequantized_state
from compilers.quantize.variant import quantize
from compilers.runtime import Bundle, FloatArray, Session
from compilers.toolchain import LoweringInput
from registry.artifact import Manifest
from registry.errors import BuildError
from registry.recipe import parse_recipe
from registry.target import find_target
from serving.node.host import this_host

PAGE: Final = Path(__file__).with_name("PARITY.md")
TOOLCHAINS: Final = ("onnxruntime", "tvm")
TARGETS: Final = ("cpu-x86-64-v3", "cpu-x86-64-v4")
RECIPES: Final = ("fp32", "fp16")
NO_DIGEST: Final = "sha256:" + "0" * 64
TINY: Final[Mapping[str, Any]] = {
    "vocab_size": 1000, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False,
}  # fmt: skip

State = dict[str, np.ndarray[Any, Any]]
Change = Callable[[dict[str, Any], State], None]


@dataclass(frozen=True, slots=True)
class Shape:
    """A random checkpoint."""

    name: str
    architecture: str
    config: Mapping[str, Any]
    spread: float = 1.0
    """Factor on the matrices' deviation of 1/√inputs."""
    loud: float = 1.0
    """Factor on one channel of the embedding and of what is added to it, as trained networks have them."""


SHAPES: Final = (
    Shape("llama, 0.9 M", "Llama", {}),
    Shape("llama, tied, every bias", "Llama", {"tie_word_embeddings": True, "attention_bias": True,
                                               "mlp_bias": True}),
    Shape("llama, peaked logits", "Llama", {}, spread=2.5),
    Shape("llama, one channel 300 × as large", "Llama", {}, loud=300.0),
    Shape("llama, 24 layers", "Llama", {"num_hidden_layers": 24}, spread=1.5),
    Shape("llama3 rope, 8 heads of 48", "Llama", {
        "head_dim": 48, "num_attention_heads": 8, "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    Shape("llama, 12 M, wide", "Llama", {"hidden_size": 576, "intermediate_size": 1536,
                                         "num_attention_heads": 9, "num_key_value_heads": 3}),
    Shape("qwen2, one key head, tied", "Qwen2", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    Shape("qwen2, window of 20 on two layers", "Qwen2", {"use_sliding_window": True, "sliding_window": 20,
                                                         "max_window_layers": 2}, spread=1.5),
    Shape("qwen3, heads of 64", "Qwen3", {"head_dim": 64}, spread=1.5),
    Shape("mistral, window of 32", "Mistral", {"sliding_window": 32}),
    Shape("mistral, window of 300, longer than other probes", "Mistral", {"sliding_window": 300}, spread=1.5),
)  # fmt: skip


PLANTED: Final = ("llama, 0.9 M", "qwen2, window of 20 on two layers", "qwen3, heads of 64")
"""Shapes that faults are planted in."""


def _scaled(name: str, factor: float) -> Change:
    def change(config: dict[str, Any], state: State) -> None:
        state[name] = state[name] * np.float32(factor)

    return change


def _setting(key: str, edit: Callable[[Any], Any]) -> Change:
    def change(config: dict[str, Any], state: State) -> None:
        config[key] = edit(config[key])

    return change


def _swap(name: str, rows: tuple[slice, slice]) -> Change:
    """Exchange two equal parts of a tensor's first axis."""

    def change(config: dict[str, Any], state: State) -> None:
        first, second = rows
        tensor = state[name].copy()
        tensor[first], tensor[second] = state[name][second], state[name][first]
        state[name] = tensor

    return change


def _rope(factor: float) -> Change:
    def change(config: dict[str, Any], state: State) -> None:
        rope = dict(config["rope_parameters"])
        config["rope_parameters"] = {**rope, "rope_theta": rope["rope_theta"] * factor}

    return change


def _pair(config: dict[str, Any], state: State) -> None:
    """One rotary pair of one head turns the other way: its halves are exchanged in q."""
    half = config["head_dim"] // 2
    _swap("model.layers.1.self_attn.q_proj.weight", (slice(3, 4), slice(3 + half, 4 + half)))(config, state)


def _head(config: dict[str, Any], state: State) -> None:
    size = config["head_dim"]
    name = "model.layers.1.self_attn.q_proj.weight"
    _swap(name, (slice(0, size), slice(size, 2 * size)))(config, state)


def _halves(config: dict[str, Any], state: State) -> None:
    for name in state:
        state[name] = state[name].astype(np.float16).astype(np.float32)


def faults(config: Mapping[str, Any], state: State) -> Iterator[tuple[str, Change]]:
    """Those that a checkpoint can have."""
    layer = "model.layers.1"
    yield "one rotary pair of one head exchanged", _pair
    yield "two query heads swapped", _head
    yield "rows 5 and 6 of a gate matrix swapped", _swap(f"{layer}.mlp.gate_proj.weight",
                                                         (slice(5, 6), slice(6, 7)))  # fmt: skip
    yield "weights rounded to half where float32 is declared", _halves
    for factor in (1.01, 1.0001, 1.000001):
        yield f"rope base × {factor}", _rope(factor)
    for factor in (10.0, 1.1, 1.001):
        yield f"epsilon of all norms × {factor:g}", _setting("rms_norm_eps", lambda v, f=factor: v * f)
    for factor in (1.0001, 1.00001, 1.000001):
        yield f"a lost scale: one norm × {factor}", _scaled(f"{layer}.input_layernorm.weight", factor)
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        for by in (1, -1):
            yield f"window {by:+d}", _setting("sliding_window", lambda v, by=by: v + by)
    if f"{layer}.self_attn.q_proj.bias" in state:
        yield "one bias lost", _scaled(f"{layer}.self_attn.q_proj.bias", 0.0)
    if f"{layer}.self_attn.q_norm.weight" in state:
        yield "one query norm's weights lost", _ones(f"{layer}.self_attn.q_norm.weight")


def _ones(name: str) -> Change:
    def change(config: dict[str, Any], state: State) -> None:
        state[name] = np.ones_like(state[name])

    return change


@contextmanager
def half_sums(session: TorchSession) -> Iterator[None]:
    """Every matrix product is rounded to half: the least that sums in half do to it."""
    from torch import nn

    with ExitStack() as stack:
        for module in session.model.modules():
            if isinstance(module, nn.Linear):
                hook = module.register_forward_hook(lambda _, __, made: made.half().to(made.dtype))
                stack.callback(hook.remove)
        yield


@dataclass(frozen=True, slots=True)
class Reference:
    """What a checkpoint's artifacts are held against."""

    session: TorchSession
    probe: Sequences
    exact: FloatArray
    error: FloatError

    @classmethod
    def of(cls, checkpoint: Path) -> Reference:
        """Run torch."""
        session = TorchSession(checkpoint)
        a = session.architecture
        draw = np.random.default_rng(3)
        texts = [[int(t) for t in draw.integers(0, a.vocab_size, 20 + 8 * i)] for i in range(12)]
        probe = make_probe(texts, vocab_size=a.vocab_size, max_context=a.max_context, window=a.largest_window)
        exact = exact_logits(session, probe)
        return cls(session, probe, exact, torch_error(session, probe, exact=exact))

    def figures(self, session: Session, *, exact: FloatArray | None = None) -> FloatFigures:
        """A session's, in prefill and step by step."""
        runs = (reference_logits(session, self.probe), stepwise_logits(session, self.probe))
        against = self.exact if exact is None else exact
        return worst([float_figures(run, exact=against, error=self.error) for run in runs])


def build(checkpoint: Path, out: Path, *, recipe: str, toolchain: str, target: str) -> Session:
    """An artifact of a checkpoint, loaded."""
    out.mkdir(parents=True)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    architecture = read_architecture(config, where=str(checkpoint))
    facts, parsed = model_facts(architecture, add_bos=False), parse_recipe(recipe)
    quantize(checkpoint, parsed, architecture=architecture, out=out, calibration=None)
    (out / "graph").mkdir()
    source = LoweringInput(
        recipe=parsed,
        facts=facts,
        graph=export_graph(architecture, out=out / "graph"),
        weights=out / "weights.safetensors",
    )
    lowered = find_toolchain(toolchain).lower(source, find_target(target), out=out)
    manifest = Manifest(
        build_key=NO_DIGEST, format=toolchain, toolchain=toolchain,
        toolchain_version=find_toolchain(toolchain).version(), target=target, checkpoint="power/1",
        checkpoint_digest=NO_DIGEST, family="power", licence="unknown", recipe=recipe, facts=facts, files=(),
        entry=lowered.entry, options=dict(lowered.options), memory_bytes=0, kv_bytes_per_token=0,
    )  # fmt: skip
    return find_runtime(toolchain).load(Bundle(manifest, out), this_host(), threads=1)


def make_checkpoint(shape: Shape, directory: Path) -> Path:
    """Random weights of a shape."""
    import torch
    import transformers

    model_class = getattr(transformers, f"{shape.architecture}ForCausalLM")
    torch.manual_seed(11)
    model = model_class(model_class.config_class(**{**TINY, **shape.config}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=shape.spread * parameter.shape[1] ** -0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.model.embed_tokens.weight[:, 7] *= shape.loud
        for layer in model.model.layers[:1]:
            layer.mlp.down_proj.weight[7] *= shape.loud
    model.save_pretrained(directory)
    return directory


def damaged(checkpoint: Path, out: Path, change: Change) -> Path:
    """A copy of a checkpoint with a fault."""
    shutil.copytree(checkpoint, out)
    path = out / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    state = load_file(out / "model.safetensors")
    change(config, state)
    path.write_text(json.dumps(config), encoding="utf-8")
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    return out


def correct_builds(name: str, checkpoint: Path, reference: Reference, folder: Path) -> Iterator[str]:
    """Rows of the first table."""
    for recipe in RECIPES:
        exact = None
        for toolchain in TOOLCHAINS:
            for target in TARGETS if toolchain == "tvm" else TARGETS[:1]:
                out = folder / f"{recipe}-{toolchain}-{target}"
                session = build(checkpoint, out, recipe=recipe, toolchain=toolchain, target=target)
                if recipe != "fp32" and exact is None:
                    weights = dequantized_state(out / "weights.safetensors", parse_recipe(recipe))
                    exact = exact_logits(TorchSession(checkpoint, weights=weights), reference.probe)
                found = reference.figures(session, exact=exact)
                verdict = "accepted" if found.within(FLOAT_BOUND) else "**refused**"
                yield (
                    f"| {name} | {recipe} | {toolchain} | {target} | {found.typical:.2f} | "
                    f"{found.overall:.2f} | {found.position:.1f} | {found.token:.2f} | {verdict} |"
                )


def planted(name: str, checkpoint: Path, reference: Reference, folder: Path) -> Iterator[str]:
    """Rows of the second table."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    state = load_file(checkpoint / "model.safetensors")
    with half_sums(reference.session):
        moved = exact_logits(reference.session, reference.probe)
        passed = reference.figures(reference.session).within(FLOAT_BOUND)
    verdict = "passes" if passed else "refused"
    yield _row(
        name, "sums in half where float32 is declared, in torch", moved, reference, [verdict] * 2 + ["–"]
    )
    for index, (fault, change) in enumerate(faults(config, state)):
        wrong = damaged(checkpoint, folder / f"fault-{index}", change)
        moved = exact_logits(TorchSession(wrong), reference.probe)
        verdicts = []
        for toolchain in TOOLCHAINS:
            out = folder / f"fault-{index}-{toolchain}"
            session = build(wrong, out, recipe="fp32", toolchain=toolchain, target=TARGETS[0])
            passed = reference.figures(session).within(FLOAT_BOUND)
            verdicts.append("passes" if passed else "refused")
            if toolchain == TOOLCHAINS[-1]:  # graph and weights are the same for both
                verdicts.append(_read(out, reference.session))
            shutil.rmtree(out)
        shutil.rmtree(wrong)
        yield _row(name, fault, moved, reference, verdicts)


def _row(name: str, fault: str, moved: FloatArray, reference: Reference, verdicts: Sequence[str]) -> str:
    """A fault's effect in float64, and what is said of a build that has it."""
    largest = float(np.abs(moved.astype(np.float64) - reference.exact).max()) / reference.error.largest
    effect = float_figures(moved, exact=reference.exact, error=reference.error)
    return f"| {name} | {fault} | {largest:.3g} | {effect.overall:.3g} | {' | '.join(verdicts)} |"


def _read(built: Path, session: TorchSession) -> str:
    """What reading the constants of a build says."""
    try:
        check_graph(read_network(built / "graph" / "model.onnx"), session)
        check_weights(built / "weights.safetensors", session)
    except BuildError:
        return "refused"
    return "passes"


def main(*checkpoints: str) -> None:
    """Measure, and write the page."""
    good: list[str] = []
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        places = [
            (shape.name, make_checkpoint(shape, Path(folder) / str(i))) for i, shape in enumerate(SHAPES)
        ]
        places += [(Path(given).name, Path(given)) for given in checkpoints]
        for index, (name, checkpoint) in enumerate(places):
            sys.stderr.write(f"{name}\n")
            reference, work = Reference.of(checkpoint), Path(folder) / f"work-{index}"
            good += correct_builds(name, checkpoint, reference, work)
            if name in PLANTED:
                bad += planted(name, checkpoint, reference, work)
    PAGE.write_text(page(good, bad), encoding="utf-8")


def page(good: list[str], bad: list[str]) -> str:
    """The page."""
    b, machine = FLOAT_BOUND, this_machine()
    return "\n".join([
        "# What float parity accepts and refuses", "",
        f"Made by `python -m benchmarks.parity_power` on {machine.chip} ({', '.join(machine.features)}),",
        f"commit {machine.commit}, {machine.date:%Y-%m-%d}. Errors are in units of torch's",
        "own float32 error on the same probe (`compilers/check/float_error.py`); the bound is "
        f"{b.typical:g} at the typical",
        f"position, {b.overall:g} overall, {b.position:g} at the worst position and {b.token:g} at the worst "
        "token.", "",
        "## Correct builds", "",
        "| checkpoint | recipe | toolchain | target | typical | overall | position | token | |",
        "|---|---|---|---|---|---|---|---|---|", *good, "",
        "## Planted faults", "",
        "The effect is computed in float64: the largest change of a logit over torch's largest error, and",
        "all positions together. What moves logits by more than 4 × torch's error must be refused.",
        "Parity does not see the faults that pass: they move logits by less than that. The constants of the",
        "exported graph and the weights beside it are also compared with transformers' own, one by one",
        "(`compilers/check/constants.py`): the last column.", "",
        f"| checkpoint | fault | largest | overall | {' | '.join(TOOLCHAINS)} | constants |",
        "|---|---|---|---|---|---|---|", *bad, "",
    ])  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
