from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from registry.host import Accelerator, Host

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
