from __future__ import annotations

import pytest

from registry.errors import UnknownNameError
from registry.host import Accelerator, Host
from registry.target import accelerators_for, find_target, missing_features, targets

pytestmark = pytest.mark.smoke

HOST = Host(architecture="x86_64", features=("avx2",), memory_bytes=1 << 34, cores=8)


@pytest.mark.parametrize("name", targets())
def test_a_machine_made_for_a_target_runs_its_code_and_a_bare_one_does_not(name: str) -> None:
    target = find_target(name)
    made_for = Host(
        architecture=target.architecture, features=target.features, memory_bytes=1, cores=1,
        accelerators=tuple(Accelerator(architecture=one) for one in target.architectures),
    )  # fmt: skip
    assert missing_features(made_for, target=target) == ()
    bare = made_for.model_copy(update={"architecture": "z80", "features": (), "accelerators": ()})
    assert missing_features(bare, target=target) == (target.architecture,)


def test_every_flag_that_a_processor_lacks_is_named() -> None:
    wanted = find_target("cpu-x86-64-v3").features
    assert missing_features(HOST, target=find_target("cpu-x86-64-v3")) == tuple(
        sorted(set(wanted) - {"avx2"})
    )


def test_an_unknown_target_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="unknown target `cuda-sm91`") as caught:
        find_target("cuda-sm91")
    assert "`cuda-sm90`" in caught.value.hint


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
    host = HOST.model_copy(update={"accelerators": tuple(Accelerator(architecture=one) for one in here)})
    found = find_target(target)
    assert tuple(one.architecture for one in accelerators_for(found, host)) == runs
    assert missing_features(host, target=found) == (() if runs else (found.architecture,))
