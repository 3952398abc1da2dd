from __future__ import annotations

import pytest

from matrices.cells.expiry import Versions, expired


@pytest.mark.parametrize(
    ("runtimes", "is_expired"),
    [
        ({"onnxruntime": "1.31.1"}, False),
        ({"onnxruntime": "1.31.2"}, True),
        ({"tvm": "9"}, False),
        ({}, False),
    ],
)
def test_evidence_expires_with_the_version_of_its_own_runtime(new_cell, runtimes, is_expired):
    said = expired(new_cell(), runtimes=runtimes)
    assert (said is not None) == is_expired
    if said:
        assert said == "evaluated on onnxruntime 1.31.1, in use is onnxruntime 1.31.2"


def test_what_was_never_evaluated_cannot_expire(new_cell):
    assert expired(new_cell(state="built"), runtimes={"onnxruntime": "0"}) is None


def _driven(cell, driver):
    entries = tuple(
        entry.model_copy(update={"measurement": entry.measurement.model_copy(update={"driver": driver})})
        if entry.measurement
        else entry
        for entry in cell.evidence
    )
    return cell.model_copy(update={"evidence": entries})


def test_evidence_expires_with_the_driver_of_its_chip(new_cell):
    cell = _driven(new_cell(), "580.65")
    assert expired(cell, versions=Versions(drivers={"a chip": "580.65", "another": "1"})) is None
    said = expired(cell, versions=Versions(drivers={"a chip": "590.10"}))
    assert said == "evaluated with driver 580.65 of a chip, in use is 590.10"
    assert expired(new_cell(), versions=Versions(drivers={"a chip": "590.10"})) is None


def test_evidence_expires_with_the_toolchain_that_the_artifact_was_built_with(new_cell, new_manifest):
    versions = Versions(toolchains={"onnxruntime": "2"})
    said = expired(new_cell(), versions=versions, manifest=new_manifest())
    assert said == "built with onnxruntime 1, in use is onnxruntime 2"
    assert expired(new_cell(), versions=versions) is None, "without its manifest that is not known"
