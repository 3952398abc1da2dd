"""A second version of a checkpoint: new weights of the same shape re-use everything that was compiled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.checkpoints import make_checkpoint
from tests.pipeline.conftest import Place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def files(place: Place, version: str) -> dict[str, set[str]]:
    """File name → digests, over all artifacts of a version."""
    found: dict[str, set[str]] = {}
    for cell in json.loads(place.must("matrix", "show", "--json").out)["cells"]:
        if cell["checkpoint"] == f"tiny-a/{version}":
            digest = str(cell["artifact"]).removeprefix("sha256:")
            manifest = next((place.root / ".rung" / "store" / "blobs").rglob(digest))
            for file in json.loads(manifest.read_text(encoding="utf-8"))["files"]:
                found.setdefault(file["path"], set()).add(file["digest"])
    return found


def test_new_weights_re_use_every_compiled_library_and_add_weights_only(
    place: Place, checkpoint: Path, tmp_path: Path
) -> None:
    place.must("checkpoint", "add", str(checkpoint), "--name", "tiny-a", "--family", "tiny")
    place.write_ladder()
    first = place.must("build", "ladder.toml")
    assert "done lower tiny-a/1:fp32:cpu-x86-64-v3:tvm" in first.err
    second = make_checkpoint(tmp_path / "second", seed=2)
    place.must("checkpoint", "add", str(second), "--name", "tiny-a", "--family", "tiny")

    rebuilt = place.must("build", "ladder.toml")

    assert "done quantize tiny-a/2:fp32" in rebuilt.err
    assert "done lower" not in rebuilt.err
    old, new = files(place, "1"), files(place, "2")
    assert {"model.so", "plan.json", "model.onnx", "weights.safetensors"} <= set(old) == set(new)
    assert [name for name in new if not new[name] <= old[name]] == ["weights.safetensors"]
