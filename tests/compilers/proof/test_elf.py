"""Reading ELF images: damaged ones are refused with what is wrong, whatever is wrong."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compilers.proof.elf import read_elf
from compilers.proof.prove import prove
from registry.errors import CorruptError
from registry.target import find_target
from tests.compilers.proof.conftest import c_library


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return c_library("x86_64", tmp_path_factory.mktemp("elf") / "a.so").read_bytes()


def test_an_image_ends_where_its_headers_say(library: bytes) -> None:
    image = read_elf(library + b"behind it")
    assert image.size_bytes == len(library)
    assert image.machine == "EM_X86_64"
    assert "scale" in image.exports


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=12), st.data())
def test_a_damaged_image_is_read_or_refused_but_never_a_crash(
    library: bytes, edits: list[tuple[int, int]], data: st.DataObject
) -> None:
    damaged = bytearray(library)
    limit = data.draw(st.sampled_from([64, 1024, len(library)]))  # headers are where damage does most
    for place, value in edits:
        damaged[place % limit] = value
    with suppress(CorruptError):
        assert read_elf(bytes(damaged)).size_bytes <= len(library)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["model.so", "model.vmfb", "model.onnx", "x.bin", "plan.json"]),
    magic=st.sampled_from(
        [
            b"",
            b"\x7fELF\x02\x01\x01",
            b"\x50\xed\x55\xba\x01\x00\x10\x00",
            b"\x03\x02\x23\x07\x00\x06\x01\x00",
            b"PK\x03\x04",
            b".version 7.6\n.target sm_80\n",
            b"\0\0\0\0IREE",
        ]
    ),
    body=st.binary(max_size=300),
    form=st.sampled_from(["tvm", "iree", "qnn", "portable", "onnxruntime"]),
    target=st.sampled_from(["cpu-x86-64-v3", "cuda-sm90", "rocm-gfx942", "vulkan-spirv", "npu-qnn-v73"]),
)
def test_garbage_is_a_problem_and_never_a_crash(
    name: str, magic: bytes, body: bytes, form: str, target: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(magic + body)
    proof = prove(
        tmp_path,
        files=[name],
        entry=name,
        format=form,  # type: ignore[arg-type]  # drawn from its values
        toolchain="x",
        target=find_target(target),
    )
    assert not proof.sound
