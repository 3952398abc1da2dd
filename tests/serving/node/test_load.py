import shutil

import numpy as np
import pytest

from compilers.backend import find_runtime
from compilers.runtime import Segment
from registry.artifact import Manifest
from registry.digest import canonical_json, digest_file
from registry.errors import CorruptError, LoadError, SchemaError
from serving.node.host import this_host
from serving.node.load import compiled_limits, load_bundle, plan_limits
from tests.serving.support import make_cell, make_host, make_manifest, make_release

TIERS = {"tool-calling": 1, "reasoning": 1}


@pytest.fixture
def copy(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def release_of(bundle, **evidence):
    manifest = Manifest.read_json(bundle / "manifest.json")
    version = find_runtime("onnxruntime").version()
    return make_release(make_cell(manifest, tiers=TIERS, **({"runtime_version": version} | evidence)))


def test_a_bundle_loads_and_computes_what_the_checkpoint_does(bundle, session):
    model = load_bundle(bundle, host=this_host(), release=release_of(bundle))
    tokens = model.tokenizer.encode("the quick brown fox")
    cache = model.session.new_cache(rows=1, capacity=64)
    [logits] = model.session.forward(cache, [Segment(0, tokens, "all")])
    with session.torch.inference_mode():
        expected = session.model(session.torch.tensor([tokens])).logits[0].numpy()
    assert np.abs(logits - expected).max() < 1e-4
    assert model.cell is not None
    assert model.digest == Manifest.read_json(bundle / "manifest.json").digest
    assert model.limits.slots == 8


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors", "tokenizer.json"])
def test_a_changed_missing_or_extra_file_is_refused_by_name(copy, name):
    path = copy / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptError, match=name):
        load_bundle(copy, host=this_host())
    path.write_bytes(data[:-1])
    with pytest.raises(CorruptError, match=name):
        load_bundle(copy, host=this_host(), files="trust")
    path.unlink()
    with pytest.raises(CorruptError, match=f"{name}.*missing"):
        load_bundle(copy, host=this_host())
    path.write_bytes(data)
    (copy / "stray.so").write_bytes(b"")
    with pytest.raises(CorruptError, match=r"stray\.so.*not in the manifest"):
        load_bundle(copy, host=this_host())


def test_a_changed_manifest_is_not_in_the_release(copy):
    release = release_of(copy)
    text = (copy / "manifest.json").read_text()
    (copy / "manifest.json").write_text(text.replace('"memory_bytes":1048576', '"memory_bytes":1'))
    with pytest.raises(LoadError, match="is not in release `r1`"):
        load_bundle(copy, host=this_host(), release=release)
    (copy / "manifest.json").write_text(text.replace('"schema_version":1', '"schema_version":2'))
    with pytest.raises(SchemaError, match="schema_version"):
        load_bundle(copy, host=this_host())
    (copy / "manifest.json").unlink()
    with pytest.raises(SchemaError, match="no manifest"):
        load_bundle(copy, host=this_host())


def test_another_version_of_the_runtime_is_refused_unless_it_is_allowed(bundle):
    with pytest.raises(LoadError, match=r"was evaluated with onnxruntime 1\.0, this host has") as caught:
        load_bundle(bundle, host=this_host(), release=release_of(bundle, runtime_version="1.0"))
    assert caught.value.exit_code == 7
    with pytest.raises(LoadError, match="does not name"):
        load_bundle(bundle, host=this_host(), release=release_of(bundle, runtime_version=None))
    release = release_of(bundle, runtime_version="1.0")
    assert load_bundle(bundle, host=this_host(), release=release, versions="any").cell is not None


def test_a_host_that_lacks_features_is_refused(bundle):
    host = make_host(features=("avx", "sse4_2"))
    with pytest.raises(LoadError, match=r"lacks .*avx2"):
        load_bundle(bundle, host=host)
    with pytest.raises(LoadError, match="lacks x86_64"):
        load_bundle(bundle, host=make_host(architecture="aarch64"))


def test_damaged_compiled_code_is_refused_even_with_a_right_digest(copy):
    (copy / "model.onnx").write_bytes(b"not a graph")
    manifest = Manifest.read_json(copy / "manifest.json")
    files = tuple(
        f.model_copy(
            update={"digest": digest_file(copy / f.path), "size_bytes": (copy / f.path).stat().st_size}
        )
        for f in manifest.files
    )
    (copy / "manifest.json").write_bytes(canonical_json(manifest.model_copy(update={"files": files})))
    with pytest.raises(LoadError, match=r"model\.onnx"):
        load_bundle(copy, host=this_host())


def test_slots_and_context_are_what_memory_allows():
    manifest = make_manifest(context=1000, memory_bytes=1 << 20, kv_bytes_per_token=1 << 10)
    host = make_host(memory_bytes=1 << 30)
    limits = plan_limits(manifest, host=host)
    assert (limits.slots, limits.capacity, limits.kept) == (8, 1000, 8)
    used = (
        limits.slots + limits.kept
    ) * limits.capacity * manifest.kv_bytes_per_token + manifest.memory_bytes
    assert used <= 0.9 * host.memory_bytes
    tight = plan_limits(manifest, host=make_host(memory_bytes=5 << 20))
    assert (tight.slots, tight.capacity, tight.kept) == (3, 1000, 0)
    short = plan_limits(manifest, host=make_host(memory_bytes=(2 << 20) - 100_000))
    assert short.slots == 1
    assert 0 < short.capacity < 1000
    assert plan_limits(manifest, host=host, slots=2, context=10).slots == 2
    with pytest.raises(LoadError, match="GiB for 100 sequences"):
        plan_limits(manifest, host=make_host(memory_bytes=5 << 20), slots=100, context=1000)
    with pytest.raises(LoadError, match="needs"):
        plan_limits(manifest, host=make_host(memory_bytes=1 << 20))
    with pytest.raises(LoadError, match="context of 1001"):
        plan_limits(manifest, host=host, context=1001)


def test_an_artifact_of_a_fixed_shape_bounds_the_context():
    limits = plan_limits(make_manifest(context=1000), host=make_host(memory_bytes=1 << 30))
    assert compiled_limits(limits, longest=64).capacity == 64
    assert compiled_limits(limits, longest=1000) == limits
    with pytest.raises(LoadError, match="compiled for 64"):
        compiled_limits(limits, longest=64, context=65)
