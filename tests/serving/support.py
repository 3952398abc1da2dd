"""A tiny Llama with random weights, its tokenizer, and a session over torch: real, small and quick."""

import copy
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from evals.verdict import Verdict
from matrices.cells.cell import Cell, Evidence, TaskResult
from matrices.cells.measurement import Measurement
from matrices.releases.release import Release, ReleasedCell
from matrices.releases.ruling import Approval
from registry.artifact import Manifest, ModelFacts
from registry.checkpoint import FileEntry
from registry.digest import canonical_json, digest_bytes, digest_file
from registry.host import Host
from serving.engine.engine import Limits
from serving.http.server import open_socket, serve
from serving.http.service import create_service
from serving.node.load import LoadedModel
from serving.node.open import make_node

CONTEXT = 256
PROMPTS = ["the quick brown fox", "call the tool", "one two three", "naïve café", "weather in Paris", "{"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + m.role) }}{% endif %}[{{ m.role }}] {{ m.content }}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "call the tool with name and arguments",
    "naïve café — übermäßig",
    '{"name": "search", "arguments": {"query": "weather in Paris"}}',
    "one two three four five six seven",
] * 4


@dataclass
class TorchCache:
    rows: int
    capacity: int
    held: list = field(default_factory=list)

    def __post_init__(self):
        self.held = [None] * self.rows

    def length(self, row):
        return 0 if self.held[row] is None else self.held[row].get_seq_length()

    def truncate(self, row, *, length):
        if length == 0:
            self.held[row] = None
        elif length < self.length(row):
            self.held[row].crop(length - self.length(row))  # negative: so many tokens less

    def copy(self, *, source, row, length):
        self.held[row] = copy.deepcopy(self.held[source])
        self.truncate(row, length=length)


class TorchSession:
    """A session over a transformers model, row by row; counts what it was asked."""

    def __init__(self, directory):
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        self.vocab_size = self.model.config.vocab_size
        self.max_context = self.model.config.max_position_embeddings
        self.calls = []
        self.failures = 0
        self.gate = threading.Event()
        self.gate.set()

    def new_cache(self, *, rows, capacity):
        return TorchCache(rows, capacity)

    def forward(self, cache, segments):
        from transformers import DynamicCache

        from compilers.model.torch_reference import cache_argument

        self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the accelerator fell over")
        rows = [segment.row for segment in segments]
        assert rows == list(range(rows[0], rows[0] + len(rows))), "rows of a call must be contiguous"
        self.calls.append([(segment.row, len(segment.tokens)) for segment in segments])
        results = []
        for segment in segments:
            assert cache.length(segment.row) + len(segment.tokens) <= cache.capacity
            past = cache.held[segment.row] or DynamicCache(config=self.model.config)
            with self.torch.inference_mode():
                ids = self.torch.tensor([list(segment.tokens)])
                out = self.model(input_ids=ids, use_cache=True, **cache_argument(self.model, past))
            cache.held[segment.row] = past
            logits = out.logits[0].numpy().astype(np.float32)
            results.append(logits if segment.logits == "all" else logits[-1:])
        return results


def make_checkpoint(path, *, seed=0):
    """A random Llama of a few thousand parameters with a byte-level tokenizer that adds BOS."""
    import torch
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(path)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=backend.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.4,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def make_manifest(
    *, files=(), recipe="fp32", target="cpu-x86-64-v3", vocab_size=400, context=CONTEXT, **changes
):
    facts = ModelFacts(
        architecture="LlamaForCausalLM",
        vocab_size=vocab_size,
        hidden_size=32,
        layers=2,
        heads=4,
        kv_heads=2,
        head_size=8,
        max_context=context,
        bos_token_id=0,
        eos_token_ids=(1,),
        add_bos=True,
    )
    values = {
        "build_key": digest_bytes(recipe.encode()),
        "format": "onnxruntime",
        "toolchain": "onnxruntime",
        "toolchain_version": "1",
        "target": target,
        "checkpoint": "tiny/1",
        "checkpoint_digest": digest_bytes(b"c"),
        "family": "tiny-family",
        "licence": "apache-2.0",
        "recipe": recipe,
        "facts": facts,
        "files": tuple(files),
        "entry": "model.onnx",
        "memory_bytes": 1 << 20,
        "kv_bytes_per_token": 256,
    }
    return Manifest(**(values | changes))


def make_cell(manifest, *, tiers, runtime_version="1.0", runtime="onnxruntime"):
    now = datetime(2026, 11, 1, tzinfo=UTC)
    digest = manifest.digest
    on = Measurement(runtime=runtime, runtime_version=runtime_version, chip="chip", at=now)
    step = {"digest": digest, "at": now, "measurement": on}
    cell = Cell(
        id=f"{manifest.checkpoint}:{manifest.recipe}:{manifest.target}:{manifest.toolchain}",
        family=manifest.family,
        checkpoint=manifest.checkpoint,
        checkpoint_digest=manifest.checkpoint_digest,
        tier=1,
        recipe=manifest.recipe,
        target=manifest.target,
        toolchain=manifest.toolchain,
        state="approved",
        build_key=manifest.build_key,
        artifact=digest,
        size_bytes=manifest.size_bytes,
        updated_at=now,
        tasks=tuple(make_result(task, tier) for task, tier in tiers.items()),
        evidence=tuple(Evidence(state=state, **step) for state in ("built", "loads", "close", "evaluated")),
    )
    return ReleasedCell(
        cell=cell, manifest=manifest, approval=Approval(who="ada", why="evidence", at=now, artifact=digest)
    )


def make_result(task, tier):
    verdicts = tuple(
        Verdict(
            task_type=task,
            tier=one,
            status="pass" if tier is not None and one >= tier else "fail",
            reason="measured",
            accuracy=0.9,
            reference_accuracy=0.9,
            difference_points=0.0,
            lower_bound_points=-1.0,
            samples=400,
            floor=0.5,
            margin_points=2.0,
        )
        for one in (1, 2)
    )
    return TaskResult(
        task_type=task,
        accuracy=0.9,
        samples=400,
        available=400,
        batch_size=8,
        tier=tier,
        verdicts=verdicts,
        scorecard=digest_bytes(task.encode()),
        tasks_digest=digest_bytes(b"tasks"),
    )


def make_release(*cells, name="r1"):
    return Release(
        name=name,
        family="tiny-family",
        created_at=datetime(2026, 11, 1, tzinfo=UTC),
        created_by="ada",
        ladder_digest=digest_bytes(b"ladder"),
        tiers=2,
        tasks=("reasoning", "tool-calling"),
        cells=tuple(sorted(cells, key=lambda one: one.cell.id)),
    )


def make_host(**changes):
    from registry.target import find_target

    values = {
        "architecture": "x86_64",
        "features": tuple(sorted(find_target("cpu-x86-64-v3").features)),
        "memory_bytes": 8 << 30,
        "cores": 2,
        "chip": "chip",
    }
    return Host(**(values | changes))


def make_model(session=None, tokenizer=None, *, limits=None, recipe="w4g32-gptq"):
    """What a node has loaded: the int4 variant, tier 2 for tool calling and nothing for reasoning."""
    own = make_cell(make_manifest(recipe=recipe), tiers={"tool-calling": 2, "reasoning": None})
    better = make_cell(make_manifest(recipe="fp32"), tiers={"tool-calling": 1, "reasoning": 1})
    abroad = make_cell(
        make_manifest(recipe="fp32", target="cpu-aarch64-neoverse-n1"),
        tiers={"tool-calling": 1, "reasoning": 1},
    )
    return LoadedModel(
        manifest=own.manifest,
        digest=own.manifest.digest,
        session=session,
        tokenizer=tokenizer,
        limits=limits or Limits(slots=4, capacity=CONTEXT, queued=64, kept=2),
        runtime_version="1.0",
        host=make_host(),
        release=make_release(own, better, abroad),
        cell=own,
    )


def make_own_promise(*, region=None, default_task=None):
    """What a node with that model promises."""
    return make_node(make_model(), region=region, default_task=default_task, runtimes={}).promise


@contextmanager
def running(
    session,
    tokenizer,
    *,
    limits=None,
    region=None,
    default_task=None,
    max_wait_s=2.0,
    hosts=(),
    connections=None,
    reload=None,
):
    """A server on loopback in a thread of this process; gives its URL and service."""
    model = make_model(session, tokenizer, limits=limits)
    runtimes = {"onnxruntime": "1.0"}
    node = make_node(model, region=region, default_task=default_task, runtimes=runtimes)
    service = create_service(node, max_wait_s=max_wait_s)
    listening = open_socket(host="127.0.0.1", port=0)
    ready = threading.Event()
    stop = threading.Event()
    addresses = []
    thread = threading.Thread(
        target=serve,
        args=(service, listening),
        daemon=True,
        kwargs={
            "on_ready": lambda address: (addresses.append(address), ready.set()),
            "stop": stop,
            "grace_s": 5.0,
            "hosts": hosts,
            "limits": connections,
            "reload": reload,
        },
    )
    thread.start()
    assert ready.wait(20)
    try:
        yield addresses[0].url, service
    finally:
        if isinstance(session, TorchSession):
            session.gate.set()
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def make_bundle(checkpoint, out, *, recipe="fp32", toolchain="onnxruntime"):
    """A real artifact of a checkpoint, as the pipeline makes it, in a directory of its own."""
    import json
    import shutil

    from compilers.backend import find_toolchain
    from compilers.export.graph import export_graph
    from compilers.model.architecture import model_facts, read_architecture
    from compilers.quantize.variant import quantize
    from compilers.toolchain import LoweringInput
    from registry.recipe import parse_recipe
    from registry.target import find_target

    architecture = read_architecture(
        json.loads((checkpoint / "config.json").read_text()), where="config.json"
    )
    facts = model_facts(architecture, add_bos=True)
    graph, bundle = out / "graph", out / "bundle"
    for directory in (graph, bundle):
        directory.mkdir(parents=True)
    quantize(checkpoint, parse_recipe(recipe), architecture=architecture, out=bundle)
    source = LoweringInput(
        recipe=parse_recipe(recipe),
        facts=facts,
        graph=export_graph(architecture, out=graph),
        weights=bundle / "weights.safetensors",
    )
    lowered = find_toolchain(toolchain).lower(source, find_target("cpu-x86-64-v3"), out=bundle)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (checkpoint / name).is_file():
            shutil.copy(checkpoint / name, bundle / name)
    files = [
        FileEntry(path=path.name, digest=digest_file(path), size_bytes=path.stat().st_size)
        for path in sorted(bundle.iterdir())
    ]
    manifest = make_manifest(
        files=files,
        recipe=recipe,
        format=toolchain,
        toolchain=toolchain,
        facts=facts,
        entry=lowered.entry,
        options=dict(lowered.options),
    )
    (bundle / "manifest.json").write_bytes(canonical_json(manifest))
    return bundle


def complete(client, prompt="the quick brown fox", **more):
    """A completion by the OpenAI client, greedy unless asked otherwise."""
    values = {"model": "tiny", "max_tokens": 12, "temperature": 0} | more
    return client.completions.create(prompt=prompt, **values)
