from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from registry.host import Accelerator, Host
from registry.target import accelerators_for, find_target, missing_features

OLD = {
    "architecture": "x86_64",
    "features": ["avx2"],
    "memory_bytes": 1 << 34,
    "cores": 8,
    "chip": "a processor",
}


def test_a_host_file_of_rung_0_1_names_accelerators_by_architecture_alone() -> None:
    host = Host.model_validate_json(json.dumps({**OLD, "accelerators": ["sm_89", "sm_90"]}))
    assert host.accelerators == (Accelerator(architecture="sm_89"), Accelerator(architecture="sm_90"))
    assert Host.model_validate_json(json.dumps(OLD)).accelerators == ()


def test_a_host_with_accelerators_survives_the_way_through_json() -> None:
    one = Accelerator(architecture="sm_90", chip="NVIDIA H100", memory_bytes=80 << 30, driver="580.65")
    host = Host.model_validate({**OLD, "accelerators": [one]})
    assert Host.model_validate_json(host.model_dump_json()) == host


@pytest.mark.parametrize("given", ["sm_90", 3, [3], [{"architecture": "sm_90", "memory_bytes": -1}]])
def test_accelerators_of_another_form_are_refused(given: object) -> None:
    with pytest.raises(ValidationError, match="accelerators"):
        Host.model_validate({**OLD, "accelerators": given})


@pytest.mark.parametrize(
    ("target", "here", "runs"),
    [
        ("cuda-sm80", ("sm_80", "sm_86", "sm_90"), ("sm_80", "sm_86")),
        ("cuda-sm89", ("sm_86", "sm_89"), ("sm_89",)),
        ("cuda-sm80-sm89-sm90-sm100", ("sm_75", "sm_103"), ("sm_103",)),
        ("rocm-gfx942", ("gfx90a", "gfx942"), ("gfx942",)),
        ("npu-qnn-v73", ("htp-v73",), ("htp-v73",)),
        ("cuda-sm90", ("sm_80",), ()),
    ],
)
def test_code_runs_on_accelerators_of_its_architecture(
    target: str, here: tuple[str, ...], runs: tuple[str, ...]
) -> None:
    host = Host.model_validate({**OLD, "accelerators": list(here)})
    found = find_target(target)
    assert tuple(one.architecture for one in accelerators_for(found, host)) == runs
    assert missing_features(host, target=found) == (() if runs else (found.architecture,))
