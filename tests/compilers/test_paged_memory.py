"""Paged memory: what is written takes memory, what is forgotten gives it back, and nothing else is lost."""

from __future__ import annotations

import mmap
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compilers.onnxruntime.cache import OrtKvMemory
from compilers.paged_memory import PagedArray
from compilers.tvm.cpu.cache import CpuKvMemory
from compilers.tvm.cpu.plan import LibraryPlan
from registry.artifact import ModelFacts
from tests.compilers.residency import resident_bytes

FLOAT = np.dtype(np.float32)
LAYERS, HEADS, SIZE, ROWS, CAPACITY = 3, 2, 64, 4, 4096
TOKEN_BYTES = 2 * LAYERS * HEADS * SIZE * 4
"""Keys and values of one token over all layers."""

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is given back on Linux alone")


def onnxruntime_memory() -> OrtKvMemory:
    facts = ModelFacts(
        architecture="LlamaForCausalLM", vocab_size=32, hidden_size=256, layers=LAYERS, heads=4,
        kv_heads=HEADS, head_size=SIZE, max_context=CAPACITY, add_bos=False,
    )  # fmt: skip
    return OrtKvMemory(facts, rows=ROWS, capacity=CAPACITY)


def tvm_memory() -> CpuKvMemory:
    plan = LibraryPlan(
        layers=LAYERS, kv_heads=HEADS, head_size=SIZE, vocab_size=32, tensors={}, parameters=()
    )
    return CpuKvMemory(plan, rows=ROWS, capacity=CAPACITY)


def write(memory: OrtKvMemory | CpuKvMemory, row: int, *, tokens: int, value: float) -> None:
    """Write the keys and values of the first tokens of a row, as the runtime lays them out."""
    if isinstance(memory, OrtKvMemory):
        for buffer in memory.buffers:
            buffer[row, :, :tokens] = value
    else:
        blocks, rest = divmod(tokens, 16)
        for keys, values in zip(memory.keys, memory.values, strict=True):
            keys[row, :, :blocks] = values[row, :, :blocks] = value
            if rest:
                keys[row, :, blocks, :, :rest] = values[row, :, blocks, :rest] = value


def arrays(memory: OrtKvMemory | CpuKvMemory) -> list[np.ndarray]:
    return memory.buffers if isinstance(memory, OrtKvMemory) else [memory.keys, memory.values]


def resident(memory: OrtKvMemory | CpuKvMemory) -> int:
    return sum(resident_bytes(array) for array in arrays(memory))


@needs_linux
@pytest.mark.parametrize("make", [onnxruntime_memory, tvm_memory])
@pytest.mark.parametrize("tokens", [1, 100, 1000])
def test_a_row_takes_the_memory_of_its_tokens_and_a_page_per_head(make, tokens: int) -> None:
    memory = make()
    assert resident(memory) == 0
    write(memory, 1, tokens=tokens, value=1.0)
    spare = 2 * LAYERS * HEADS * 2 * mmap.PAGESIZE  # a head may begin and end within a page
    assert tokens * TOKEN_BYTES <= resident(memory) <= tokens * TOKEN_BYTES + spare


@needs_linux
@pytest.mark.parametrize("make", [onnxruntime_memory, tvm_memory])
def test_a_row_that_is_emptied_gives_its_memory_back_and_its_neighbours_keep_theirs(make) -> None:
    memory = make()
    for row in range(ROWS):
        write(memory, row, tokens=500, value=float(row + 1))
    whole = resident(memory)
    memory.release_row(2, length=0)
    assert resident(memory) <= whole - 500 * TOKEN_BYTES + 2 * LAYERS * 2 * mmap.PAGESIZE
    expected, found = make(), arrays(memory)
    for row in (0, 1, 3):
        write(expected, row, tokens=500, value=float(row + 1))
    rows = [0, 1, 3]
    for left, right in zip(found, arrays(expected), strict=True):
        at = (slice(None), rows) if isinstance(memory, CpuKvMemory) else (rows,)
        np.testing.assert_array_equal(left[at], right[at])


@needs_linux
@pytest.mark.parametrize("make", [onnxruntime_memory, tvm_memory])
@pytest.mark.parametrize("kept", [1, 16, 33, 200])
def test_a_truncated_row_keeps_its_first_tokens_and_gives_the_others_back(make, kept: int) -> None:
    memory, expected = make(), make()
    write(memory, 1, tokens=1000, value=5.0)
    memory.release_row(1, length=kept)
    write(expected, 1, tokens=kept, value=5.0)
    for left, right in zip(arrays(memory), arrays(expected), strict=True):
        wanted = right != 0
        np.testing.assert_array_equal(left[wanted], right[wanted])
    assert resident(memory) <= kept * TOKEN_BYTES + 2 * LAYERS * HEADS * 3 * mmap.PAGESIZE


@given(
    st.integers(1, 5), st.integers(0, 4), st.integers(0, 5 * mmap.PAGESIZE), st.integers(1, 3 * mmap.PAGESIZE)
)
def test_only_what_lies_behind_the_kept_bytes_of_a_part_is_forgotten(
    parts: int, index: int, kept: int, size: int
) -> None:
    paged = PagedArray((parts, size), np.dtype(np.uint8))
    paged.array[...] = 7
    part = paged.array[index % parts]
    paged.give_back(part, kept_bytes=kept)
    changed = np.flatnonzero(paged.array != 7)
    first = (index % parts) * size + kept
    assert all(first <= place < (index % parts + 1) * size for place in changed)


def test_a_size_beyond_the_address_space_is_no_memory() -> None:
    with pytest.raises(MemoryError):
        PagedArray((1 << 40, 1 << 30), FLOAT)
