from __future__ import annotations

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from registry.errors import CheckpointError
from registry.weights import CHUNK_ELEMENTS, first_non_finite, read_header


def write_raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensor(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_a_header_gives_types_shapes_and_places(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.int8)}, path, metadata={"k": "v"})
    header = read_header(path)
    assert (header["a"].dtype, header["a"].shape, header["a"].elements) == ("F32", (2, 3), 6)
    assert header["b"].size_bytes == 4
    assert max(one.start + one.size_bytes for one in header.values()) == path.stat().st_size


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        ({"a": tensor()}, b"\0" * 7, "truncated"),
        ({"a": tensor()}, b"\0" * 9, "1 bytes after its last tensor"),
        ({"a": tensor(), "b": tensor(offsets=(4, 12))}, b"\0" * 12, "`b` over `a`"),
        ({"a": tensor(), "b": tensor(offsets=(12, 20))}, b"\0" * 20, "gap of 4 bytes before tensor `b`"),
        ({"a": tensor(offsets=(4, 12))}, b"\0" * 12, "gap of 4 bytes before tensor `a`"),
        ({"a": tensor(offsets=(8, 0))}, b"\0" * 8, "offsets"),
        ({"a": tensor(offsets=(0, 8, 9))}, b"\0" * 8, "offsets"),
        ({"a": tensor(shape=(3,))}, b"\0" * 8, r"shape \[3\]\) in 8 bytes"),
        ({"a": tensor(shape=(-2,))}, b"\0" * 8, "shape"),
        ({"a": tensor(shape=(True, 2))}, b"\0" * 8, "shape"),
        ({"a": tensor(shape="2")}, b"\0" * 8, "shape"),
        ({"a": tensor(dtype="F31")}, b"\0" * 8, "unknown type 'F31'"),
        ({"a": {"dtype": "F32"}}, b"", "without exactly"),
        ({"a": 3}, b"", "without exactly"),
        ({}, b"", "no tensor"),
        ([], b"", "JSON list"),
        (b"garbage", b"", "not JSON"),
        (b"\xff\xfe{}", b"", "not JSON"),
        (b'{"a":1,"a":2}', b"", "appears twice"),
        ({"__metadata__": {"k": 1}, "a": tensor()}, b"\0" * 8, "__metadata__"),
    ],
)
def test_a_malformed_file_is_refused_by_name(tmp_path, header, data, said):
    path = write_raw(tmp_path / "bad.safetensors", header, data)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_header(path)
    assert "bad.safetensors" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\x08", struct.pack("<Q", 1 << 60), b"PK\x03\x04" + b"\0" * 100])
def test_a_file_that_is_no_safetensors_at_all_is_refused(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated"):
        read_header(tmp_path / "f")
    with pytest.raises(CheckpointError, match="cannot read"):
        read_header(tmp_path / "none")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_is_accepted_is_accepted_by_the_reference_reader_too(tmp_path, data):
    good = tmp_path / "good.safetensors"
    if not good.exists():
        save_file({"a": np.ones((2, 2), np.float32), "b": np.ones(3, np.float16)}, good)
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(len(content) - 2, len(content)))]
    (tmp_path / "mutated.safetensors").write_bytes(content)
    try:
        found = read_header(tmp_path / "mutated.safetensors")
    except CheckpointError:
        return
    try:
        with safe_open(tmp_path / "mutated.safetensors", framework="np") as reader:
            assert set(reader.keys()) == set(found)
    except SafetensorError as error:
        raise AssertionError(f"the reference refuses what was accepted: {error}") from error


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2], ids=str
)
def test_nan_and_infinity_are_found_in_every_float_type(tmp_path, dtype, bad):
    good = np.linspace(-3, 3, 1000).astype(dtype)
    wrong = good.copy()
    wrong[777] = bad
    kinds = {
        "float64": "F64",
        "float32": "F32",
        "float16": "F16",
        "bfloat16": "BF16",
        "float8_e5m2": "F8_E5M2",
    }
    about = {"dtype": kinds[np.dtype(dtype).name], "shape": [1000]}
    size = good.nbytes
    header = {"g": {**about, "data_offsets": [0, size]}, "w": {**about, "data_offsets": [size, 2 * size]}}
    clean = write_raw(tmp_path / "clean", header, good.tobytes() * 2)
    assert first_non_finite(clean, read_header(clean)) is None
    dirty = write_raw(tmp_path / "dirty", header, good.tobytes() + wrong.tobytes())
    assert first_non_finite(dirty, read_header(dirty)) == "w"


def test_float8_without_infinity_has_its_own_nan(tmp_path):
    values = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    for code in (0x7F, 0xFF, 0x7E, 0x78):
        data = bytes([code])
        path = write_raw(tmp_path / "f8", {"a": tensor("F8_E4M3", (1,), (0, 1))}, data)
        assert (first_non_finite(path, read_header(path)) == "a") == bool(np.isnan(values[code]))


def test_a_nan_in_the_last_chunk_of_a_large_tensor_is_found_and_integers_are_not_looked_at(tmp_path):
    large = np.zeros(CHUNK_ELEMENTS * 2 + 5, np.float32)
    large[-1] = np.nan
    save_file({"i": np.full(4, -1, np.int32), "large": large}, tmp_path / "f")
    assert first_non_finite(tmp_path / "f", read_header(tmp_path / "f")) == "large"
