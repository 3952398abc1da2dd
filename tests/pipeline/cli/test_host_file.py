"""`rung resolve | pull --host FILE` take what `rung doctor --json` prints, and the facts of a host alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from matrices.releases.files import write_release
from registry.signing import generate_keys
from registry.store import Store
from tests.pipeline.conftest import Place
from tests.serving.support import make_cell, make_manifest, make_release

TARGETS = ("cpu-x86-64-v3", "cuda-sm90")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A directory outside any workspace, with a release of a CPU and a CUDA artifact to pull."""
    root = tmp_path_factory.mktemp("machine")
    place = Place(root)
    version = doctor(place)["machine"]["runtimes"]["tvm"]
    store = Store.create(root / "store")
    cells = []
    for target in TARGETS:
        code = store.add_bytes(target.encode())
        manifest = make_manifest(
            recipe="fp16", target=target, format="tvm", toolchain="tvm", files=(code.at("model.so"),),
            entry="model.so", memory_bytes=9 << 30,
        )  # fmt: skip
        store.put_artifact(manifest)
        cells.append(make_cell(manifest, tiers={"reasoning": 1}, runtime="tvm", runtime_version=version))
    generate_keys(root / "key", root / "key.pub")
    release = make_release(*cells)
    write_release(release, directory=root / "releases" / "r1", private_key=root / "key")
    return place


def doctor(place: Place) -> dict[str, Any]:
    return dict(json.loads(place.must("doctor", "--json").out))


def resolve(place: Place, host: Path) -> tuple[int, dict[str, Any]]:
    """Exit code and decision."""
    ran = place.rung(
        "resolve", "--release", "releases/r1", "--key", "key.pub", "--task", "reasoning", "--min-tier", "1",
        "--host", str(host), "--json",
    )  # fmt: skip
    return ran.code, json.loads(ran.out)


def with_gpu(document: dict[str, Any], *, gibibytes: int | None) -> dict[str, Any]:
    """A machine whose processor runs nothing of the release, with a GPU."""
    size = None if gibibytes is None else gibibytes << 30
    one = {"architecture": "sm_90", "chip": "NVIDIA H100 80GB HBM3", "memory_bytes": size, "driver": None}
    host = {**document["machine"]["host"], "architecture": "aarch64", "accelerators": [one]}
    return {**document, "machine": {**document["machine"], "host": host}}


def test_what_doctor_prints_is_taken_as_it_is(machine: Place, tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    printed = machine.must("doctor", "--json").out
    path.write_text(printed)
    code, decision = resolve(machine, path)
    host = json.loads(printed)["machine"]["host"]
    assert len(decision["candidates"]) == 2
    lacking = {one["id"] for one in decision["candidates"] if one["gate"] == "hardware"}
    assert any("cuda-sm90" in name for name in lacking) != any(
        one["architecture"].startswith("sm_9") for one in host["accelerators"]
    )
    path.write_text(json.dumps(host))
    assert resolve(machine, path) == (code, decision), "the facts alone mean the same"


@pytest.mark.parametrize(
    ("gibibytes", "code", "gate"), [(80, 0, None), (None, 0, None), (8, 8, "capacity"), (0, 0, None)]
)
def test_a_gpu_of_that_size_is_allowed_or_denied(
    machine: Place, tmp_path: Path, gibibytes: int | None, code: int, gate: str | None
) -> None:
    path = tmp_path / "host.json"
    path.write_text(json.dumps(with_gpu(doctor(machine), gibibytes=gibibytes)))
    found, decision = resolve(machine, path)
    [cuda] = [one for one in decision["candidates"] if one["target"] == "cuda-sm90"]
    assert (found, cuda["gate"]) == (code, gate)
    if gibibytes == 8:
        assert "NVIDIA H100 80GB HBM3 (sm_90) can give 7,730.9 MB" in cuda["reason"]


def test_pull_takes_the_same_file(machine: Place, tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    path.write_text(json.dumps(with_gpu(doctor(machine), gibibytes=80)))
    arguments = ("pull", "r1", "--from", ".", "--key", "key.pub", "--task", "reasoning", "--host", str(path))
    pulled = json.loads(machine.must(*arguments, "--out", str(tmp_path / "node"), "--json").out)
    [bundle] = pulled["bundles"].values()
    assert json.loads((Path(bundle) / "manifest.json").read_text())["target"] == "cuda-sm90"
    path.write_text(json.dumps(with_gpu(doctor(machine), gibibytes=8)))
    refused = machine.rung(*arguments, "--out", str(tmp_path / "other"))
    assert refused.code == 8
    assert "[capacity]" in refused.err


def test_a_file_of_another_kind_is_refused_with_the_remedy(machine: Place, tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    path.write_text('{"machine": {}}')
    for verb in (("resolve", "--task", "reasoning", "--min-tier", "1", "--release", "releases/r1"),
                 ("pull", "r1", "--from", ".", "--out", str(tmp_path / "node"))):  # fmt: skip
        ran = machine.rung(*verb, "--key", "key.pub", "--host", str(path))
        assert ran.code == 2
        assert "host.json" in ran.err
        assert "hint: write it on the machine in question: `rung doctor --json > host.json`" in ran.err
