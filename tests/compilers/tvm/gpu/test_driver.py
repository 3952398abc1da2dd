"""From an artifact to the functions of the GPU's driver, without a GPU: a library in the driver's place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compilers.runtime import Bundle
from compilers.toolchain import Supported, Unsupported
from compilers.tvm.gpu.driver import amd_architectures
from compilers.tvm.gpu.open import read_code
from compilers.tvm.run import TvmRuntime
from registry.errors import LoadError
from registry.host import Accelerator
from registry.target import find_target
from tests.compilers.conftest import Built, this_host
from tests.compilers.tvm.gpu.building import bundle_of

Builder = Callable[..., Built]
FAKE = Path(__file__).parent / "fake_cuda.c"
LOAD = """
import ctypes, sys
from pathlib import Path
ctypes.CDLL(sys.argv[4], ctypes.RTLD_GLOBAL)  # its soname is libcuda.so.1
from compilers.runtime import Bundle, Segment
from compilers.tvm.run import TvmRuntime
from registry.artifact import Manifest
from registry.errors import LoadError
from registry.host import Host
manifest, host = Manifest.model_validate_json(sys.argv[2]), Host.model_validate_json(sys.argv[3])
try:
    session = TvmRuntime().load(Bundle(manifest, Path(sys.argv[1])), host)
    cache = session.new_cache(rows=3, capacity=100)
    print(session.driver.chip, session.driver.architecture, session.driver.version, flush=True)
    for segments in ([Segment(0, [1, 2, 3])], [Segment(0, [4])], [Segment(1, [5] * 40, "all")]):
        print([logits.shape for logits in session.forward(cache, segments)], flush=True)
    cache.copy(source=1, row=2, length=40)
    print("tvm" in sys.modules, "torch" in sys.modules)
except LoadError as error:
    print("refused:", error.message)
"""


@pytest.fixture(scope="module")
def built(checkpoint_of: Callable[..., Path], build: Builder) -> Built:
    return build(checkpoint_of(architecture="LlamaForCausalLM"), recipe="fp16")


@pytest.fixture(scope="module")
def bundle(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made = bundle_of(built, "rocm-gfx942", tmp_path_factory.mktemp("rocm"))
    # What a fatbin begins with is all that the library in the driver's place looks at.
    (made.path / "kernels.fatbin").write_bytes(b"\x50\xed\x55\xba" + bytes(60))
    changes = {"target": "cuda-sm90", "entry": "kernels.fatbin"}
    return Bundle(made.manifest.model_copy(update=changes), made.path)


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("`cc` is not installed")
    path = tmp_path_factory.mktemp("fake") / "libfake.so"
    flags = ["-O1", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([compiler, *flags, str(FAKE), "-o", str(path)], check=True)
    return path


def run(bundle: Bundle, fake: Path, **settings: str) -> list[str]:
    host = this_host().model_copy(update={"accelerators": (Accelerator(architecture="sm_90"),)})
    given = [str(bundle.path), bundle.manifest.model_dump_json(), host.model_dump_json(), str(fake)]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *given], capture_output=True, text=True, env={**os.environ, **settings}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_session_launches_its_kernels_and_needs_neither_tvm_nor_torch(bundle: Bundle, fake: Path) -> None:
    lines = run(bundle, fake)
    assert lines[0] == "Fake GPU 0 sm_90 CUDA 13000"
    assert [line for line in lines if line.startswith("[")] == ["[(1, 300)]", "[(1, 300)]", "[(40, 300)]"]
    assert "False False" in lines  # the library that counts launches has its own buffer
    launches = [line.split()[1:] for line in lines if line.startswith("launch")]
    assert len(launches) == 3 * (1 + 8 * 2 + 2)
    assert ["attention_kernel", "4", "3", "128"] in launches  # heads × tokens
    assert ["rows4_plain_float16_kernel", "8", "1", "128"] in launches  # 128 rows, three tokens
    assert ["rows1_plain_float16_kernel", "19", "1", "128"] in launches  # the vocabulary, one token
    assert ["tile_gated_float16_kernel", "3", "1", "128"] in launches  # 96 outputs, 40 tokens


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"FAKE_COMPUTE": "80", "FAKE_GPUS": "2"}, "Fake GPU 0 (sm_80), Fake GPU 1 (sm_70)"),
        ({"FAKE_GPUS": "0"}, "finds no GPU"),
        ({"FAKE_REFUSES": "1"}, "209 no kernel image is available"),
        ({"FAKE_LIMIT": "9000"}, "`cuMemAlloc_v2` failed: 2"),
    ],
)
def test_what_the_driver_refuses_is_told_and_nothing_runs_elsewhere(
    bundle: Bundle, fake: Path, settings: dict[str, str], message: str
) -> None:
    lines = run(bundle, fake, **settings)
    assert lines[-1].startswith("refused:")
    assert message in lines[-1]
    assert not any(line.startswith("launch") for line in lines)


def test_the_gpu_that_fits_is_taken_of_several(bundle: Bundle, fake: Path) -> None:
    assert run(bundle, fake, FAKE_COMPUTE="100", FAKE_GPUS="2")[0].startswith("Fake GPU 1 sm_90")


def test_a_machine_without_the_driver_is_told(bundle: Bundle) -> None:
    host = this_host().model_copy(update={"accelerators": (Accelerator(architecture="sm_90"),)})
    if shutil.which("nvidia-smi"):
        pytest.skip("there is an NVIDIA driver here")
    with pytest.raises(LoadError, match=r"libcuda\.so\.1"):
        TvmRuntime().load(bundle, host)


def test_only_hosts_with_such_a_gpu_are_supported(bundle: Bundle) -> None:
    for accelerators, works in (((), False), (("sm_80",), False), (("sm_89", "sm_90"), True)):
        here = tuple(Accelerator(architecture=each) for each in accelerators)
        host = this_host().model_copy(update={"accelerators": here})
        support = TvmRuntime().supports(bundle.manifest, host)
        assert isinstance(support, Supported if works else Unsupported)
        if isinstance(support, Unsupported):
            assert "sm_90" in support.reason


def test_source_and_code_of_another_vendor_are_refused(tmp_path: Path) -> None:
    for name, text in (("a", b'extern "C" __global__ void f()'), ("b", b"\x7fELF"), ("c", b"")):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(LoadError, match="no machine code for cuda"):
            read_code(tmp_path / name, find_target("cuda-sm90"))


def test_amd_gpus_are_read_from_what_linux_says(tmp_path: Path) -> None:
    for node, version in enumerate((0, 90402, 90010, 110000, 100302)):
        (tmp_path / str(node)).mkdir()
        text = f"cpu_cores_count 0\ngfx_target_version {version}\nvendor_id 4098\n"
        (tmp_path / str(node) / "properties").write_text(text)
    assert amd_architectures(tmp_path) == ("gfx942", "gfx90a", "gfx1100", "gfx1032")
    assert amd_architectures(tmp_path / "nothing") == ()
