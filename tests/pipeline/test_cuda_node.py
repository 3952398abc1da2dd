"""A CUDA cell from its build to its answers, on a machine without a GPU.

The code is compiled by nvcc, measured, approved, released, pulled and served by the real commands. A library
(`tests/compilers/tvm/gpu/opencl_cuda.c`) takes the place of NVIDIA's driver; the loader finds it through
LD_LIBRARY_PATH: it answers as one H100, and runs the same kernels through OpenCL.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compilers.tvm.gpu.plan import LAUNCHES_NAME, GpuPlan
from compilers.tvm.gpu.tools import find_nvcc
from registry.signing import generate_keys
from registry.workspace import find_workspace
from tests.compilers.tvm.gpu.building import require, require_opencl
from tests.pipeline.conftest import Place

STAND_IN = Path(__file__).parents[1] / "compilers" / "tvm" / "gpu" / "opencl_cuda.c"
LADDER = """
family = "tiny"
targets = ["cpu-x86-64-v3", "cuda-sm90"]
toolchains = ["tvm"]

[[tier]]
checkpoint = "tiny-a"
recipes = ["fp32"]

[task.retrieval]
floor = [0.0]
margin_points = 60.0
max_samples = 10
"""
CPU, CUDA = ("tiny-a/1:fp32:cpu-x86-64-v3:tvm", "tiny-a/1:fp32:cuda-sm90:tvm")
PROMPTS = ("one two three", "The quick brown fox", "0123456789" * 4)
TIE_NATS = 0.01
"""Candidates for a token that are closer than this may change places between two kinds of arithmetic."""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class CudaNode:
    """A workspace with a release, and the environment in which its machine has a GPU."""

    place: Place
    root: Path
    environment: dict[str, str]

    def rung(self, *arguments: str) -> dict[str, Any]:
        """What a command prints as JSON on the machine with the GPU."""
        return dict(json.loads(self.place.must(*arguments, "--json", **self.environment).out))

    def write_host(self, **accelerator: object) -> Path:
        """What doctor prints there; the processor is hidden, and the accelerator changed."""
        document = self.rung("doctor")
        host = document["machine"]["host"]
        host["features"] = []
        host["accelerators"] = [{**one, **accelerator} for one in host["accelerators"]]
        path = self.root / "host.json"
        path.write_text(json.dumps(document))
        return path


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the library in the driver's place."""
    require_opencl()
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("`cc` is not installed")
    folder = tmp_path_factory.mktemp("driver")
    command = [compiler, "-O1", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", str(STAND_IN)]
    command += ["-l:libOpenCL.so.1", "-lpthread", "-o", str(folder / "libcuda.so.1")]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, driver: Path) -> CudaNode:
    """The release of a ladder whose CUDA cell was measured on that machine."""
    require(find_nvcc)
    root = tmp_path_factory.mktemp("cuda")
    place = Place(root / "work")
    place.root.mkdir()
    place.must("init", ".")
    place.must("checkpoint", "add", str(checkpoint), "--name", "tiny-a", "--family", "tiny")
    place.write_ladder(LADDER)
    place.must("build", "ladder.toml")
    kernels = root / "kernels"
    write_kernels(place, kernels)
    environment = {"LD_LIBRARY_PATH": str(driver), "OPENCL_CUDA_KERNELS": str(kernels)}
    found = CudaNode(place, root, environment)
    measure(found)
    place.must("approve", "--passing", "--family", "tiny", "--by", "me", "--reason", "it was measured")
    place.must("release", "create", "r1", "ladder.toml", "--by", "me")
    return found


def write_kernels(place: Place, folder: Path) -> None:
    """The kernels of the CUDA artifact as OpenCL C, where the driver looks for them."""
    from compilers.tvm.gpu.compile import make_kernels, write_source

    folder.mkdir()
    store = find_workspace(place.root).store
    for digest in store.artifacts():
        manifest = store.find_artifact(digest)
        if manifest.target != "cuda-sm90":
            continue
        files = {entry.path: store.read_bytes(entry.digest) for entry in manifest.files}
        plan = GpuPlan.model_validate_json(files[LAUNCHES_NAME])
        source = write_source(make_kernels(plan), "opencl")
        (folder / f"{image_hash(files[manifest.entry]):016x}.cl").write_text(source)


def image_hash(image: bytes) -> int:
    """FNV-1a of a fatbin, as far as its own header says that it reaches."""
    length = int.from_bytes(image[6:8], "little") + int.from_bytes(image[8:16], "little")
    found = 0xCBF29CE484222325
    for byte in image[:length]:
        found = (found ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return found


def measure(node: CudaNode) -> None:
    """Evidence from the machine with the GPU, by a kit, and into the matrix."""
    kit, file = node.root / "kit", node.root / "evidence.json"
    generate_keys(node.root / "node.key", node.root / "node.pub")
    node.place.must("evidence", "export", "ladder.toml", "--target", "cuda-sm90", "--out", str(kit))
    node.place.must(
        "evidence", "run", "--target", "cuda-sm90", "--kit", str(kit), "--key", str(node.root / "node.key"),
        "--only", "parity", "--only", "quality", "--out", str(file), **node.environment,
    )  # fmt: skip
    node.place.must("evidence", "trust", str(node.root / "node.pub"), "--name", "gpu-box")
    node.place.must("evidence", "import", str(file))


def test_the_machine_says_that_it_has_the_gpu(node: CudaNode) -> None:
    machine = node.rung("doctor")["machine"]
    [found] = machine["host"]["accelerators"]
    assert "CUDA" not in (found.pop("driver") or "")
    assert found == {
        "architecture": "sm_90",
        "chip": "OpenCL in the place of an H100",
        "memory_bytes": 80 << 30,
    }
    assert machine["targets"]["cuda-sm90"] == "runs here"


def test_a_host_file_with_80_gib_is_allowed_the_cuda_cell(node: CudaNode) -> None:
    host = node.write_host()
    decision = node.rung(
        "resolve", "--release", "r1", "--task", "retrieval", "--min-tier", "1", "--host", str(host)
    )
    assert decision["outcome"] == "allow"
    assert decision["chosen"]["cell"]["id"] == CUDA


def test_a_host_file_with_too_little_memory_is_denied_by_capacity_with_the_numbers(node: CudaNode) -> None:
    host = node.write_host(memory_bytes=100_000)
    ran = node.place.rung(
        "resolve", "--release", "r1", "--task", "retrieval", "--min-tier", "1", "--host", str(host), "--json"
    )
    assert ran.code == 8
    [refused] = [one for one in json.loads(ran.out)["candidates"] if one["id"] == CUDA]
    assert (refused["outcome"], refused["gate"]) == ("deny", "capacity")
    assert "OpenCL in the place of an H100 (sm_90) can give 0.1 MB" in refused["reason"]


def test_a_host_file_pulls_the_cuda_cell_for_another_machine(node: CudaNode) -> None:
    out = node.root / "pulled"
    pulled = node.rung("pull", "r1", "--out", str(out), "--host", str(node.write_host()))
    [bundle] = pulled["bundles"].values()
    assert json.loads((Path(bundle) / "manifest.json").read_text())["target"] == "cuda-sm90"


def test_the_cuda_cell_is_served_and_gives_the_tokens_of_the_processors_cell(node: CudaNode) -> None:
    with serving(node, CPU) as url:
        expected = [complete(url, prompt) for prompt in PROMPTS]
    with serving(node, CUDA) as url:
        got = [complete(url, prompt) for prompt in PROMPTS]
        with urllib.request.urlopen(f"{url}/models", timeout=60) as answer:
            [model] = json.load(answer)["data"]
    assert model["rung"]["target"] == "cuda-sm90"
    compared = [same_up_to_ties(*pair) for pair in zip(expected, got, strict=True)]
    assert sum(compared) >= len(PROMPTS) * 12, f"too few tokens before a tie: {compared}"


def test_without_the_gpu_the_cell_is_not_served(node: CudaNode) -> None:
    ran = node.place.rung("serve", "--artifact", CUDA, "--port", "0")
    assert ran.code == 8
    assert "needs sm_90, the host has no accelerator" in ran.err


@contextmanager
def serving(node: CudaNode, cell: str) -> Iterator[str]:
    """`rung serve` of one cell on the machine with the GPU; gives its URL."""
    command = [sys.executable, "-m", "pipeline.cli.main", "serve", "--artifact", cell, "--port", "0"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **node.environment}
    server = subprocess.Popen(
        command, cwd=node.place.root, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment,
    )  # fmt: skip
    with server:
        try:
            lines = []
            for line in server.stderr or ():
                lines.append(line)
                if line.startswith("ready: "):
                    yield line.removeprefix("ready: ").strip()
                    break
            else:
                pytest.fail("".join(lines))
        finally:
            server.terminate()
            server.communicate(timeout=60)


def complete(url: str, prompt: str) -> dict[str, Any]:
    """Greedy tokens with their likeliest rivals."""
    body = {
        "model": "tiny", "prompt": prompt, "max_tokens": 24, "temperature": 0, "logprobs": 2,
        "ignore_eos": True,
    }  # fmt: skip
    request = urllib.request.Request(
        f"{url}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return dict(json.load(answer)["choices"][0]["logprobs"])


def same_up_to_ties(expected: dict[str, Any], got: dict[str, Any]) -> int:
    """How many tokens agree before a tie; anything else than a tie fails the test."""
    for place, (one, other) in enumerate(zip(expected["tokens"], got["tokens"], strict=True)):
        if one != other:
            best, second = sorted(expected["top_logprobs"][place].values(), reverse=True)[:2]
            assert math.isclose(best, second, abs_tol=TIE_NATS), (place, one, other, best, second)
            return place
        assert math.isclose(expected["token_logprobs"][place], got["token_logprobs"][place], abs_tol=TIE_NATS)
    return len(expected["tokens"])
