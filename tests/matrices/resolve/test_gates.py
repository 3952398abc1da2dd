"""Every gate × what it can find × each kind of hardware, as one table; then what capacity asks of memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

import pytest

from matrices.releases.release import Release, ReleasedCell, UnreleasedCell
from matrices.resolve.candidate import Candidate, candidates
from matrices.resolve.facts import Facts
from matrices.resolve.gates import GATES, GateName, GateResult
from matrices.resolve.request import Request
from matrices.resolve.resolve import resolve
from registry.host import Accelerator, Host
from registry.target import find_target

Kind = Literal["cpu", "gpu", "npu"]
Outcome = Literal["pass", "deny", "indeterminate"]
TARGETS: Mapping[Kind, str] = {"cpu": "cpu-x86-64-v3", "gpu": "cuda-sm90", "npu": "npu-qnn-v73"}
ACCELERATORS: Mapping[Kind, Accelerator] = {
    "gpu": Accelerator(architecture="sm_90", chip="NVIDIA H100 80GB HBM3", memory_bytes=80 << 30),
    "npu": Accelerator(architecture="htp-v73", chip="Snapdragon X Elite", memory_bytes=16 << 30),
}
SEVERAL_GIB = 9 << 30
END = datetime(2027, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    """A candidate for one kind of hardware, and facts that are changed from those by which it passes."""

    kind: Kind
    released: ReleasedCell
    other: UnreleasedCell
    facts: Facts

    def candidate(self, new_release: Callable[..., Release]) -> Candidate:
        return candidates(new_release(self.released))[0]

    def with_host(self, **changes: object) -> Facts:
        return Facts(
            request=self.facts.request,
            host=self.facts.host.model_copy(update=changes),
            runtimes=self.facts.runtimes,
        )

    def with_request(self, **changes: object) -> Facts:
        return Facts(
            request=self.facts.request.model_copy(update=changes),
            host=self.facts.host,
            runtimes=self.facts.runtimes,
        )

    def with_runtimes(self, runtimes: Mapping[str, str] | None) -> Facts:
        return Facts(request=self.facts.request, host=self.facts.host, runtimes=runtimes)


def _host(kind: Kind) -> Host:
    features = find_target("cpu-x86-64-v3").features
    accelerators = () if kind == "cpu" else (ACCELERATORS[kind],)
    return Host(
        architecture="x86_64", features=features, memory_bytes=64 << 30, cores=2, accelerators=accelerators
    )


@pytest.fixture(params=get_args(Kind))
def case(request: pytest.FixtureRequest, new_released: Callable[..., ReleasedCell]) -> Case:
    kind: Kind = request.param
    target = TARGETS[kind]
    return Case(
        kind=kind,
        released=new_released("demo-mid/1", "fp16", target, "tvm", memory_bytes=SEVERAL_GIB),
        other=UnreleasedCell(
            id=f"demo-mid/1:fp16:{target}:tvm", target=target, state="failed", reason="a segfault",
            tasks={"reasoning": 2},
        ),
        facts=Facts(
            request=Request(family="demo", task="reasoning", min_tier=2),
            host=_host(kind),
            runtimes={"tvm": "0.27.0"},
        ),
    )  # fmt: skip


Change = Callable[[Case], tuple[Candidate | None, Facts]]
"""What a gate is asked: another candidate in place of the released one (or None), and facts."""


def _released(case: Case, **changes: object) -> Candidate:
    one = case.released.model_copy(update=changes)
    return Candidate(id=one.cell.id, target=one.cell.target, earned={"reasoning": 2}, released=one)


def _other(case: Case, **changes: object) -> Candidate:
    one = case.other.model_copy(update=changes)
    return Candidate(id=one.id, target=one.target, earned=dict(one.tasks), other=one)


def _lacking(case: Case) -> tuple[None, Facts]:
    if case.kind == "cpu":
        return None, case.with_host(architecture="aarch64")
    other = Accelerator(architecture="sm_80", memory_bytes=80 << 30)
    return None, case.with_host(accelerators=(other,))


def _unnamed_target(case: Case) -> tuple[Candidate, Facts]:
    known = _released(case)
    newer = Candidate(id=known.id, target="of-the-future", earned=known.earned, released=known.released)
    return newer, case.facts


def _memory(case: Case, gibibytes: int | None) -> Facts:
    if case.kind == "cpu":
        return case.with_host(memory_bytes=(gibibytes or 0) << 30)
    size = None if gibibytes is None else gibibytes << 30
    one = ACCELERATORS[case.kind].model_copy(update={"memory_bytes": size, "chip": "not in the table"})
    return case.with_host(accelerators=(one,))


def _ending(case: Case) -> Candidate:
    return replace(_released(case), expires_at=END)


def _waived(case: Case) -> Candidate:
    approval = case.released.approval.model_copy(update={"artifact": "sha256:" + "0" * 64})
    return _released(case, approval=approval)


TABLE: Mapping[GateName, Mapping[Outcome, tuple[Change, str] | str]] = {
    "pin": {
        "pass": (lambda case: (None, case.with_request(artifact=case.released.manifest.digest)), ""),
        "deny": (
            lambda case: (None, case.with_request(artifact="sha256:" + "0" * 64)),
            "is not the artifact 000000000000 that was asked for",
        ),
        "indeterminate": "a request names an artifact or it does not",
    },
    "hardware": {
        "pass": (lambda case: (None, case.facts), ""),
        "deny": (_lacking, "the host"),
        "indeterminate": (_unnamed_target, "does not know the target `of-the-future`"),
    },
    "evidence": {
        "pass": (lambda case: (None, case.facts), ""),
        "deny": (lambda case: (None, case.with_runtimes({"tvm": "0.28.0"})), "its evidence expired"),
        "indeterminate": (
            lambda case: (None, case.with_runtimes(None)),
            "the installed version of `tvm` is not known",
        ),
    },
    "quality": {
        "pass": (lambda case: (None, case.facts), ""),
        "deny": (lambda case: (None, case.with_request(min_tier=1)), "earned tier 2 for `reasoning`"),
        "indeterminate": "a tier was earned or it was not",
    },
    "approval": {
        "pass": (lambda case: (None, case.facts), ""),
        "deny": (lambda case: (_waived(case), case.facts), "was approved as the artifact 000000000000"),
        "indeterminate": (lambda case: (_ending(case), case.facts), "the time is not known"),
    },
    "capacity": {
        "pass": (lambda case: (None, _memory(case, 80)), ""),
        "deny": (lambda case: (None, _memory(case, 8)), "needs 9,664.2 MB for 1 × 1024 tokens of context"),
        "indeterminate": (lambda case: (None, _memory(case, None)), "is not known"),
    },
}
"""Gate → outcome → what brings it about and what the reason says; or why that outcome cannot be."""


def test_the_table_has_every_gate_in_order() -> None:
    assert tuple(TABLE) == tuple(name for name, _ in GATES) == get_args(GateName)
    assert all(set(row) == set(get_args(Outcome)) for row in TABLE.values())


@pytest.mark.parametrize("outcome", get_args(Outcome))
@pytest.mark.parametrize("name", get_args(GateName))
def test_every_gate_finds_what_the_table_says(
    name: GateName, outcome: Outcome, case: Case, new_release: Callable[..., Release]
) -> None:
    row = TABLE[name][outcome]
    if isinstance(row, str):
        return  # the table gives the reason why this outcome cannot be
    change, reason = row
    candidate, facts = change(case)
    found = dict(GATES)[name](candidate or case.candidate(new_release), facts)
    assert found.outcome == outcome
    assert reason in found.reason


NEVER_OPEN = [name for name, row in TABLE.items() if isinstance(row["indeterminate"], str)]


@pytest.mark.parametrize("name", NEVER_OPEN)
def test_gates_that_are_never_open_need_no_fact_of_the_machine(
    name: GateName, case: Case, new_release: Callable[..., Release]
) -> None:
    nothing = Host(architecture="unknown", features=(), memory_bytes=0, cores=1)
    facts = Facts(request=case.facts.request, host=nothing)
    assert dict(GATES)[name](case.candidate(new_release), facts) == GateResult("pass")


def test_what_was_not_released_is_refused_by_what_the_release_says_of_it(case: Case) -> None:
    gates = dict(GATES)
    failed = _other(case)
    assert gates["evidence"](failed, case.facts) == GateResult("deny", "is failed: a segfault")
    assert "is not in the release (failed: a segfault)" in gates["approval"](failed, case.facts).reason
    assert gates["capacity"](failed, case.facts).outcome == "pass", "its size is not on record"
    assert gates["evidence"](_other(case, state="newer"), case.facts).outcome == "indeterminate"


def test_an_approved_cell_is_allowed_where_it_fits_and_denied_with_the_numbers_where_it_does_not(
    case: Case, new_release: Callable[..., Release]
) -> None:
    release = new_release(case.released)
    assert resolve(release, _memory(case, 80)).outcome == "allow"
    denied = resolve(release, _memory(case, 8))
    assert (denied.outcome, denied.candidates[0].gate) == ("deny", "capacity")
    owner = "the host" if case.kind == "cpu" else f"not in the table ({ACCELERATORS[case.kind].architecture})"
    assert denied.candidates[0].reason == (
        f"needs 9,664.2 MB for 1 × 1024 tokens of context, {owner} can give 7,730.9 MB"
    )
    unknown = resolve(release, _memory(case, None))
    assert (unknown.outcome, unknown.candidates[0].gate) == ("indeterminate", "capacity")


@pytest.mark.parametrize(
    ("chip", "outcome"),
    [
        ("NVIDIA H100 80GB HBM3", "pass"),
        ("NVIDIA L4", "pass"),
        ("Ascend 910B2", "pass"),
        ("NVIDIA H999", "indeterminate"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "indeterminate"),
        ("NVIDIA H100XM-10C", "indeterminate"),
        ("unknown", "indeterminate"),
    ],
)
def test_memory_that_a_host_file_leaves_out_is_looked_up_by_the_chips_name(
    chip: str,
    outcome: Outcome,
    new_released: Callable[..., ReleasedCell],
    new_release: Callable[..., Release],
) -> None:
    released = new_released("demo-mid/1", "fp16", "cuda-sm90", "tvm", memory_bytes=SEVERAL_GIB)
    one = Accelerator(architecture="sm_90", chip=chip)
    host = _host("gpu").model_copy(update={"accelerators": (one,)})
    facts = Facts(request=Request(family="demo", task="reasoning", min_tier=2), host=host)
    assert dict(GATES)["capacity"](candidates(new_release(released))[0], facts).outcome == outcome


@pytest.mark.parametrize(("chip", "outcome"), [("NVIDIA H100 80GB HBM3", "pass"), ("a", "indeterminate")])
def test_an_accelerator_with_no_memory_counts_as_one_whose_memory_is_not_known(
    chip: str,
    outcome: Outcome,
    new_released: Callable[..., ReleasedCell],
    new_release: Callable[..., Release],
) -> None:
    released = new_released("demo-mid/1", "fp16", "cuda-sm90", "tvm", memory_bytes=SEVERAL_GIB)
    one = Accelerator(architecture="sm_90", chip=chip, memory_bytes=0)
    host = _host("gpu").model_copy(update={"accelerators": (one,)})
    facts = Facts(request=Request(family="demo", task="reasoning", min_tier=2), host=host)
    assert dict(GATES)["capacity"](candidates(new_release(released))[0], facts).outcome == outcome


@pytest.mark.parametrize("memory_bytes", [0, -1])
def test_a_host_without_any_memory_counts_as_one_whose_memory_is_not_known(
    memory_bytes: int, new_released: Callable[..., ReleasedCell], new_release: Callable[..., Release]
) -> None:
    host = _host("cpu").model_copy(update={"memory_bytes": memory_bytes})
    facts = Facts(request=Request(family="demo", task="reasoning", min_tier=2), host=host)
    candidate = candidates(new_release(new_released("demo-mid/1", "fp32", TARGETS["cpu"])))[0]
    assert dict(GATES)["capacity"](candidate, facts).outcome == "indeterminate"


def test_an_npu_without_memory_of_its_own_has_the_hosts(
    new_released: Callable[..., ReleasedCell], new_release: Callable[..., Release]
) -> None:
    released = new_released("demo-mid/1", "fp16", "npu-qnn-v73", "tvm", memory_bytes=SEVERAL_GIB)
    one = Accelerator(architecture="htp-v73", chip="Snapdragon(R) X Elite - X1E80100")
    request = Request(family="demo", task="reasoning", min_tier=2)
    candidate = candidates(new_release(released))[0]
    for gibibytes, outcome in ((64, "pass"), (8, "deny"), (0, "indeterminate")):
        host = _host("npu").model_copy(update={"accelerators": (one,), "memory_bytes": gibibytes << 30})
        found = dict(GATES)["capacity"](candidate, Facts(request=request, host=host))
        assert found.outcome == outcome


def test_of_several_accelerators_the_one_with_room_is_enough_and_others_do_not_count(
    new_released: Callable[..., ReleasedCell], new_release: Callable[..., Release]
) -> None:
    released = new_released("demo-mid/1", "fp16", "cuda-sm90", "tvm", memory_bytes=SEVERAL_GIB)
    small, large = (Accelerator(architecture="sm_90", chip="a", memory_bytes=n << 30) for n in (8, 80))
    other = Accelerator(architecture="gfx942", chip="b", memory_bytes=192 << 30)
    request = Request(family="demo", task="reasoning", min_tier=2)
    for accelerators, outcome in (((small, large), "allow"), ((small, other), "deny"), ((other,), "deny")):
        host = _host("gpu").model_copy(update={"accelerators": accelerators})
        facts = Facts(request=request, host=host, runtimes={"tvm": "0.27.0"})
        assert resolve(new_release(released), facts).outcome == outcome


@pytest.mark.parametrize(
    ("left", "outcome"),
    [
        (timedelta(days=1), "pass"),
        (END.resolution, "pass"),
        (timedelta(0), "deny"),
        (-END.resolution, "deny"),
    ],
)
def test_an_approval_ends_with_its_release(left: timedelta, outcome: str, case: Case) -> None:
    found = dict(GATES)["approval"](_ending(case), replace(case.facts, at=END - left))
    assert found.outcome == outcome
    assert (outcome == "pass") or "its release expired 2027-01-01 00:00Z" in found.reason


def test_a_revoked_artifact_is_refused_and_another_one_is_not(case: Case) -> None:
    digest = case.released.manifest.digest
    gate = dict(GATES)["approval"]
    revoked = replace(case.facts, revoked={digest: "withdrawn by Ada: harmful answers"})
    assert gate(_released(case), revoked) == GateResult(
        "deny", "was revoked: withdrawn by Ada: harmful answers"
    )
    assert gate(_released(case), replace(case.facts, revoked={"sha256:" + "0" * 64: "no"})).outcome == "pass"
