"""The whole way of a checkpoint at the real command line: build, rulings, release, node, damage, kill."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest

from evals.task_code import find_code
from registry.store import Store
from tests.checkpoints import make_checkpoint
from tests.pipeline.conftest import LADDER, Place, cells, copy_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ARCHITECTURES = {
    "llama-untied-bias": (
        "LlamaForCausalLM",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "hidden_size": 72,
            "head_dim": 18,
            "intermediate_size": 100,
        },
    ),
    "qwen2-tied-window": (
        "Qwen2ForCausalLM",
        {
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 16,
            "max_window_layers": 1,
        },
    ),
    "qwen3-heads": (
        "Qwen3ForCausalLM",
        {"head_dim": 40, "num_attention_heads": 6, "num_key_value_heads": 3, "vocab_size": 307},
    ),
    "mistral-full": ("MistralForCausalLM", {"num_key_value_heads": 4, "sliding_window": 12}),
}


def test_every_architecture_reaches_an_evaluated_cell_on_both_toolchains(
    place: Place, tmp_path: Path
) -> None:
    tiers, names = "", list(ARCHITECTURES)
    for seed, name in enumerate(names):
        architecture, config = ARCHITECTURES[name]
        path = make_checkpoint(tmp_path / name, architecture=architecture, seed=seed, **config)
        place.must("checkpoint", "add", str(path), "--name", name, "--family", "odd")
        tiers += f'[[tier]]\ncheckpoint = "{name}"\nrecipes = ["fp32"]\n'
    floors = ", ".join("0.0" for _ in names)
    place.write_ladder(
        f'family = "odd"\ntargets = ["cpu-x86-64-v3"]\n{tiers}'
        f"[task.extraction]\nfloor = [{floors}]\nmargin_points = 50.0\nmax_samples = 20\n"
    )
    place.must("build", "ladder.toml")
    found = cells(place)
    assert len(found) == 2 * len(names)
    for cell in found.values():
        assert cell["state"] == "evaluated", cell["reason"]
        assert cell["parity"]["max_abs"] <= 1e-4


def test_a_second_build_finds_nothing_to_do(built: Place) -> None:
    ran = built.must("build", "ladder.toml")
    assert "nothing to build: 4 cells are up to date" in ran.err


def test_other_bars_are_judged_from_the_stored_outcomes(built: Place, tmp_path: Path) -> None:
    place = copy_of(built, tmp_path)
    before = cells(place)
    place.write_ladder(LADDER.replace("floor = [0.0]", "floor = [1.0]"))

    harder = place.must("build", "ladder.toml")

    assert f"{len(before)} cells judged again" in harder.err
    assert "nothing to build" in harder.err
    for name, cell in cells(place).items():
        (old,), (new,) = before[name]["tasks"], cell["tasks"]
        assert (old["tier"], new["tier"]) == (1, None)
        assert [verdict["floor"] for verdict in new["verdicts"]] == [1.0]
        assert old["scorecard"] == new["scorecard"]
        assert cell["state"] == before[name]["state"]
    place.write_ladder()
    place.must("build", "ladder.toml")
    assert {name: cell["tasks"] for name, cell in cells(place).items()} == {
        name: cell["tasks"] for name, cell in before.items()
    }


def test_bars_that_the_stored_outcomes_do_not_decide_are_evaluated_again(
    built: Place, tmp_path: Path
) -> None:
    place = copy_of(built, tmp_path)
    place.write_ladder(LADDER.replace("max_samples = 20", "max_samples = 30"))
    assert "done examine" in place.must("build", "ladder.toml").err


OWN_TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl}}
test_split: test
doc_to_text: !function prompts.make
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["."], max_gen_toks: 3}
metric_list: [{metric: exact_match}]
"""


def code_of(place: Place) -> str:
    """The digest of the code of the ladder's own tasks."""
    code = find_code(place.root / "own")
    assert code is not None
    return code.digest


def test_a_task_type_that_cannot_be_evaluated_fails_alone_until_it_can(built: Place, tmp_path: Path) -> None:
    place = copy_of(built, tmp_path)
    (place.root / "own").mkdir()
    (place.root / "own/mine.yaml").write_text(OWN_TASK)
    (place.root / "own/data.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 12)
    prompts = place.root / "own/prompts.py"
    prompts.write_text("def make(document):\n    raise ValueError('no prompt')\n")
    own = '\n[task.mine]\ntasks = ["mine"]\ninclude = "own"\nfloor = [0.0]\nmargin_points = 60.0\n'
    place.write_ladder(LADDER.replace("max_samples = 20", "max_samples = 30") + own)
    before = cells(place)

    refused = place.rung("build", "ladder.toml")
    assert refused.code == 8
    assert "`mine.yaml`, `prompts.py`" in refused.err
    assert cells(place) == before

    ran = place.rung("build", "ladder.toml", "--allow-code", code_of(place))

    assert ran.code == 6, ran.err
    assert "not evaluated on `mine`" in ran.err
    assert "no prompt" in ran.err
    for name, cell in cells(place).items():
        assert [(task["task_type"], task["available"]) for task in cell["tasks"]] == [("retrieval", 30)]
        assert (cell["state"], cell["parity"]) == ("close", before[name]["parity"])
        assert "`mine`" in cell["reason"]

    prompts.write_text("def make(document):\n    return document['question']\n")
    place.must("build", "ladder.toml", "--allow-code", code_of(place))
    for cell in cells(place).values():
        assert [task["task_type"] for task in cell["tasks"]] == ["retrieval", "mine"]
        assert (cell["state"], cell["reason"]) == ("evaluated", "")


def test_doctor_finds_nothing_after_a_build(built: Place) -> None:
    assert json.loads(built.must("doctor", "--json").out)["findings"] == []


def test_a_release_reaches_a_node_that_answers(built: Place, tmp_path: Path) -> None:
    place = copy_of(built, tmp_path)
    place.must("approve", "--passing", "--family", "tiny", "--by", "me", "--reason", "it passed")
    place.must("release", "create", "r1", "ladder.toml", "--by", "me")
    place.must("release", "verify", "r1")
    assert place.must("release", "create", "r1", "ladder.toml", "--by", "me").code == 0
    decision = json.loads(place.must("resolve", "--task", "retrieval", "--min-tier", "1", "--json").out)
    assert decision["outcome"] == "allow"
    place.must("pull", "r1", "--out", "node", "--all")
    assert len(list((place.root / "node" / "bundles").iterdir())) == len(
        json.loads(place.must("release", "list", "--json").out)[0]["cells"]
    )
    assert place.rung("resolve", "--task", "retrival", "--min-tier", "1").code == 8


def test_a_tampered_release_is_refused(built: Place, tmp_path: Path) -> None:
    place = copy_of(built, tmp_path)
    place.must("approve", "--passing", "--family", "tiny", "--by", "me", "--reason", "it passed")
    place.must("release", "create", "r1", "ladder.toml", "--by", "me")
    release = place.root / ".rung/releases/r1/release.json"
    text = release.read_text()
    release.chmod(0o644)
    release.write_text(text.replace('"tier":1', '"tier":2').replace('"tier": 1', '"tier": 2'))
    refused = place.rung("release", "verify", "r1")
    assert refused.code == 8
    assert "hint:" in refused.err
    release.write_text(text)
    place.must("release", "verify", "r1")
    (release.parent / "release.sig").unlink()
    assert place.rung("pull", "r1", "--out", "node").code == 8
    assert not (place.root / "node" / "bundles").exists()


def test_a_tampered_blob_is_refused(built: Place, tmp_path: Path) -> None:
    place = copy_of(built, tmp_path)
    place.must("approve", "--passing", "--family", "tiny", "--by", "me", "--reason", "it passed")
    place.must("release", "create", "r1", "ladder.toml", "--by", "me")
    store = Store(place.root / ".rung/store")
    release = json.loads((place.root / ".rung/releases/r1/release.json").read_text())
    weights = release["cells"][0]["manifest"]["files"][-1]
    assert weights["path"] == "weights.safetensors"
    blob = store.root / "blobs" / weights["digest"].replace(":", "/")
    sound = blob.read_bytes()
    blob.unlink()  # its bytes may be shared with the workspace that this one is a copy of
    blob.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    verified = place.rung("release", "verify", "r1")
    assert verified.code == 3
    assert blob.name in verified.err
    pulled = place.rung("pull", "r1", "--out", "node", "--artifact", release["cells"][0]["cell"]["id"])
    assert pulled.code == 3
    assert not list((place.root / "node").glob("bundles/*/*"))
    blob.unlink()
    blob.write_bytes(sound)
    place.must("release", "verify", "r1")
    place.must("pull", "r1", "--out", "node", "--artifact", release["cells"][0]["cell"]["id"])


def test_a_variant_with_perturbed_scales_cannot_be_approved_without_a_waiver(
    built: Place, tmp_path: Path
) -> None:
    place = copy_of(built, tmp_path)
    _perturb_scales(place)
    assert place.rung("build", "ladder.toml", "--recipe", "w4g32-rtn").code == 0
    damaged = {name: cell for name, cell in cells(place).items() if "w4g32" in name}
    assert len(damaged) == 2
    for name, cell in damaged.items():
        assert not cell["parity"]["within"], cell["parity"]
        refused = place.rung("approve", name, "--by", "me", "--reason", "looks fine")
        assert refused.code == 8
        assert "parity" in refused.err
        place.must(
            "approve", name, "--by", "me", "--reason", "only for a test rig", "--waive", "known damage"
        )
        assert "known damage" in place.must("matrix", "explain", name).out


def _perturb_scales(place: Place) -> None:
    """Damage the stored weights of the int4 variant, as a faulty quantizer would, behind the probe's back."""
    store = Store(place.root / ".rung/store")
    with sqlite3.connect(place.root / ".rung/rung.db") as connection:
        rows = connection.execute("select key, output from rung_stage where stage = 'quantize'").fetchall()
        for key, text in rows:
            output = json.loads(text)
            if output["variant"]["recipe"]["name"] != "w4g32-rtn":
                continue
            data = bytearray(store.read_bytes(output["variant"]["weights"]["digest"]))
            _shake_scales(data)
            damaged = place.root / "damaged.safetensors"
            damaged.write_bytes(data)
            blob = store.add_file(damaged)
            output["variant"]["weights"] |= {"digest": blob.digest, "size_bytes": blob.size_bytes}
            connection.execute("update rung_stage set output = ? where key = ?", (json.dumps(output), key))


def _shake_scales(data: bytearray) -> None:
    """Add 5 % of noise to every scale of a safetensors file, in place."""
    size = int.from_bytes(data[:8], "little")
    draw = np.random.default_rng(0)
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name.endswith(".scales"):
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            scales = np.frombuffer(bytes(data[begin:end]), dtype=np.float32)
            data[begin:end] = (scales * draw.normal(1.0, 0.05, scales.shape)).astype(np.float32).tobytes()


def test_a_build_killed_at_any_moment_goes_on_where_it_was(place: Place, checkpoint: Path) -> None:
    place.must("checkpoint", "add", str(checkpoint), "--name", "tiny-a", "--family", "tiny")
    place.write_ladder()
    draw = random.Random(os.environ.get("RUNG_KILL_SEED", "5"))
    done: set[str] = set()
    for _ in range(4):
        process = place.start("build", "ladder.toml")
        time.sleep(draw.uniform(2.0, 9.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        now = _stages(place)
        assert done <= now, "a finished stage was lost"
        done = now
    last = place.must("build", "ladder.toml")
    assert _stages(place) >= done
    assert "failed" not in last.err.replace("0 failed", "")
    assert json.loads(place.must("doctor", "--json").out)["findings"] == []
    assert "nothing to build" in place.must("build", "ladder.toml").err
    assert {cell["state"] for cell in cells(place).values()} == {"evaluated"}


def _stages(place: Place) -> set[str]:
    path = place.root / ".rung/rung.db"
    if not path.exists():
        return set()
    with sqlite3.connect(path) as connection:
        try:
            return {
                f"{row[0]} {row[1]}" for row in connection.execute("select key, finished_at from rung_stage")
            }
        except sqlite3.OperationalError:
            return set()
