from __future__ import annotations

from datetime import UTC, datetime

import pytest

from compilers.check.speed import MachinePeaks, Speed
from matrices.cells.cell import Evidence, VariantFacts
from matrices.cells.measurement import Measurement
from matrices.chips.chip import chips, find_chip
from matrices.chips.throughput import cell_throughput, penalties
from registry.digest import digest_value
from registry.target import targets

AT = datetime(2026, 11, 22, tzinfo=UTC)


def _timed(cell, *, chip, decode, prefill=1000.0, machine=None, weights="w", recipe="fp16"):
    speed = Speed(
        prompt_tokens=96, prefill_tokens_per_s=prefill, context=100, decode_steps=8,
        decode_tokens_per_s=decode, repeats=3, threads=1, machine=machine,
    )  # fmt: skip
    facts = VariantFacts(
        weights=digest_value(weights), weights_bytes=10**9, parameters=5 * 10**8, kv_bytes_per_token=10**5
    )
    entry = Evidence(
        state="benchmarked", digest=cell.artifact, at=AT,
        measurement=Measurement(runtime=cell.toolchain, runtime_version="1", chip=chip, at=AT),
    )  # fmt: skip
    return cell.model_copy(
        update={"speed": speed, "variant": facts, "state": "benchmarked", "evidence": (*cell.evidence, entry)}
    )


@pytest.fixture
def h100(new_cell):
    return _timed(
        new_cell(recipe="fp16", target="cuda-sm90", toolchain="tvm"),
        chip="NVIDIA H100 80GB HBM3",
        decode=2000.0,
    )


@pytest.fixture
def mi300x(new_cell):
    return _timed(
        new_cell(recipe="fp16", target="rocm-gfx942", toolchain="tvm"),
        chip="AMD Instinct MI300X",
        decode=2500.0,
    )


def test_decoding_is_held_against_the_bytes_that_a_token_has_to_read(h100):
    found = cell_throughput(h100)
    bound = 3350e9 / (10**9 + 100 * 10**5)
    assert found.roofline.decode_tokens_per_s == pytest.approx(bound)
    assert found.decode_share == pytest.approx(2000 / bound)
    assert found.prefill_share == pytest.approx(1000 / (989.4e12 / 10**9))
    assert found.roofline.basis == "data sheet"


def test_a_penalty_is_what_the_share_falls_short_of_the_references(h100, mi300x):
    found = {one.target: one for one in penalties([h100, mi300x])}
    assert found["cuda-sm90"].status == "reference"
    shares = cell_throughput(mi300x).decode_share / cell_throughput(h100).decode_share
    assert found["rocm-gfx942"].status == "measured"
    assert found["rocm-gfx942"].decode == pytest.approx(1 - shares)
    assert found["rocm-gfx942"].variants == 1


def test_without_a_reference_or_a_measurement_the_penalty_is_unknown(new_cell, mi300x):
    built = new_cell(target="npu-intel", toolchain="tvm", state="built")
    found = {one.target: one for one in penalties([mi300x, built])}
    assert found["rocm-gfx942"].status == found["npu-intel"].status == "unknown"
    assert found["rocm-gfx942"].decode is None
    assert "no NVIDIA target was timed" in found["rocm-gfx942"].why
    assert "timed on its chip" in found["npu-intel"].why


def test_only_the_same_weights_are_compared(h100, mi300x):
    other = mi300x.model_copy(
        update={"variant": mi300x.variant.model_copy(update={"weights": digest_value("x")})}
    )
    assert {one.status for one in penalties([h100, other])} == {"reference", "unknown"}


def test_a_processor_is_held_against_what_its_machine_was_measured_to_give(new_cell):
    machine = MachinePeaks(memory_bandwidth_gb_per_s=20.0, flops_per_s=1e11)
    cell = _timed(new_cell(), chip="Some Xeon", decode=10.0, prefill=50.0, machine=machine)
    found = cell_throughput(cell)
    assert found.roofline.basis == "measured"
    assert found.decode_share == pytest.approx(10 / (20e9 / 1.01e9))
    assert found.prefill_share == pytest.approx(50 / 100)


def test_a_chip_that_nobody_knows_has_no_roofline_and_says_so(new_cell):
    cell = _timed(new_cell(target="rocm-gfx942", toolchain="tvm"), chip="AMD Instinct MI999", decode=1.0)
    found = cell_throughput(cell)
    assert found.roofline is None
    assert "is not in chips.toml" in found.why
    unmeasured = _timed(new_cell(), chip="Some Xeon", decode=10.0)
    assert "was not measured" in cell_throughput(unmeasured).why


def test_a_chip_without_a_figure_for_the_number_format_has_half_a_roofline(new_cell):
    cell = _timed(
        new_cell(recipe="w8a8-dynamic", target="cpu-aarch64-neoverse-n1", toolchain="tvm"),
        chip="Ampere Altra", decode=10.0, recipe="w8a8-dynamic",
    )  # fmt: skip
    found = cell_throughput(cell)
    assert found.prefill_share is None
    assert found.decode_share == pytest.approx(10 / (204.8e9 / 1.01e9))


def test_expired_and_emulated_times_do_not_count(h100):
    assert cell_throughput(h100.model_copy(update={"state": "expired", "reason": "r"})) is None
    emulated = tuple(
        e.model_copy(update={"measurement": e.measurement.model_copy(update={"via": "emulator"})})
        if e.state == "benchmarked"
        else e
        for e in h100.evidence
    )
    assert cell_throughput(h100.model_copy(update={"evidence": emulated})) is None


def test_every_chip_names_targets_that_exist_and_a_source():
    for chip in chips():
        assert set(chip.targets) <= set(targets()), chip.id
        assert chip.source.startswith("https://")
        assert {targets()[name].vendor for name in chip.targets} == {chip.vendor}


@pytest.mark.parametrize(
    ("name", "target", "found"),
    [
        ("NVIDIA H200", "cuda-sm90", "nvidia-h200-sxm"),
        ("NVIDIA H100 PCIe", "cuda-sm90", "nvidia-h100-pcie"),
        ("NVIDIA H20", "cuda-sm90", "nvidia-h20"),
        ("NVIDIA A100-SXM4-40GB", "cuda-sm80", "nvidia-a100-sxm-40gb"),
        ("AMD Instinct MI300X OAM", "rocm-gfx942", "amd-mi300x"),
        ("NVIDIA H200", "rocm-gfx942", None),
        ("Intel(R) Xeon(R) Processor", "cpu-x86-64-v3", "x86-server"),
    ],
)
def test_a_chip_is_known_by_the_name_that_it_gives_itself(name, target, found):
    chip = find_chip(name, target=target)
    assert (chip.id if chip else None) == found
