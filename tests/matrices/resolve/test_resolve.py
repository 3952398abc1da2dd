from __future__ import annotations

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from matrices.releases.release import UnreleasedCell
from matrices.resolve import resolve as resolution
from matrices.resolve.explain import explain_decision, explain_markdown
from matrices.resolve.facts import Facts
from matrices.resolve.gates import GATES, GateResult
from matrices.resolve.request import Request
from matrices.resolve.resolve import Decision
from registry.host import Accelerator
from registry.target import accelerators_for, find_target, missing_features

V3, V4 = "cpu-x86-64-v3", "cpu-x86-64-v4"
CUDA, ARM = "cuda-sm90", "cpu-aarch64-neoverse-n1"


def _ask(task="reasoning", min_tier=3, **options) -> Request:
    return Request(family="demo", task=task, min_tier=min_tier, **options)


def resolve(release, request, host, *, runtimes=None, **options) -> Decision:
    return resolution.resolve(release, Facts(request=request, host=host, runtimes=runtimes), **options)


def _by_id(decision: Decision, part: str):
    return next(one for one in decision.candidates if part in one.id)


def test_the_best_earned_tier_wins_over_the_smaller_artifact(new_release, new_released, host, runtimes):
    release = new_release(
        new_released("demo-small/1", tier=3, memory_bytes=1_000_000),
        new_released("demo-flagship/1", tier=1, memory_bytes=9_000_000),
    )
    decision = resolve(release, _ask(), host, runtimes=runtimes)
    assert (decision.outcome, decision.tier) == ("allow", 1)
    assert decision.chosen is not None
    assert decision.chosen.cell.checkpoint == "demo-flagship/1"
    assert [one.outcome for one in decision.candidates] == ["chosen", "allow"]


def test_within_a_tier_the_least_memory_wins_and_a_waiver_comes_last(
    new_release, new_released, host, runtimes
):
    waived = new_released("demo-mid/1", "w4g32-rtn", waiver="known", memory_bytes=1_000_000)
    small = new_released("demo-mid/1", "w4g32-gptq", memory_bytes=2_000_000)
    large = new_released("demo-mid/1", "fp32", memory_bytes=8_000_000)
    decision = resolve(new_release(waived, large, small), _ask(), host, runtimes=runtimes)
    assert [one.id.split(":")[1] for one in decision.candidates] == ["w4g32-gptq", "fp32", "w4g32-rtn"]
    only = resolve(new_release(waived), _ask(), host, runtimes=runtimes)
    assert "waiver: known" in only.reason
    assert "WAIVER: known" in explain_decision(only)


def test_several_tasks_are_served_at_the_worst_of_their_tiers(new_release, new_released, host, runtimes):
    mixed = new_released(earned={"extraction": 1, "reasoning": 3, "tool-calling": 1})
    release = new_release(mixed)
    both = ("extraction", "reasoning")
    assert resolve(release, _ask(both, 3), host, runtimes=runtimes).tier == 3
    denied = resolve(release, _ask(both, 2), host, runtimes=runtimes)
    assert denied.outcome == "deny"
    assert "earned tier 3 for `reasoning`, but tier 2 or better was requested" in denied.candidates[0].reason
    assert denied.feasible_tier == 3
    assert resolve(release, _ask("extraction", 1), host, runtimes=runtimes).outcome == "allow"


def test_a_waiver_never_grants_a_tier(new_release, new_released, host, runtimes):
    release = new_release(new_released(earned={"extraction": 1, "reasoning": None}, waiver="please"))
    decision = resolve(release, _ask("reasoning", 3), host, runtimes=runtimes)
    assert decision.outcome == "deny"
    assert decision.candidates[0].gate == "quality"
    assert "earned no tier for `reasoning`: fail" in decision.candidates[0].reason


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (V4, "`cpu-x86-64-v4` needs avx512bw, avx512cd, avx512dq, avx512f, avx512vl, which the host lacks"),
        (ARM, "`cpu-aarch64-neoverse-n1` is for aarch64, the host is x86_64"),
        (CUDA, "`cuda-sm90` needs sm_90, the host has no accelerator"),
    ],
)
def test_other_hardware_is_refused_and_is_a_near_miss(
    new_release, new_released, host, runtimes, target, reason
):
    release = new_release(new_released("demo-flagship/1", "fp32", target, tier=1))
    decision = resolve(release, _ask(), host, runtimes=runtimes)
    assert (decision.candidates[0].gate, decision.candidates[0].reason) == ("hardware", reason)
    assert [(miss.gate, miss.tier) for miss in decision.near_misses] == [("hardware", 1)]
    assert "but for hardware" in " ".join(explain_decision(decision))


def test_what_is_not_known_is_indeterminate_and_never_allowed(new_release, new_released, host, runtimes):
    release = new_release(new_released())
    unknown = {
        "features": host.model_copy(update={"features": ()}),
        "architecture": host.model_copy(update={"architecture": "unknown"}),
        "memory": host.model_copy(update={"memory_bytes": 0}),
    }
    for fact, machine in unknown.items():
        decision = resolve(release, _ask(), machine, runtimes=runtimes)
        assert decision.outcome == "indeterminate", fact
        assert decision.chosen is None
        assert "not known" in decision.candidates[0].reason
    decision = resolve(release, _ask(), host)
    assert (decision.outcome, decision.candidates[0].gate) == ("indeterminate", "evidence")


def test_what_is_not_known_does_not_matter_where_the_answer_is_no_anyway(new_release, new_released, host):
    decision = resolve(new_release(new_released(tier=3)), _ask(min_tier=1), host)
    assert decision.outcome == "deny"


def test_a_target_of_a_newer_version_is_indeterminate(new_release, new_released, host, runtimes):
    one = new_released()
    moved = one.model_copy(update={"cell": one.cell.model_copy(update={"target": "cpu-x86-64-v9"})})
    decision = resolve(new_release(moved), _ask(), host, runtimes=runtimes)
    assert decision.outcome == "indeterminate"
    assert "does not know the target `cpu-x86-64-v9`" in decision.candidates[0].reason


@pytest.mark.parametrize("version", ["1.31.2", "1.32.0", "1.31.1+local", "1.31"])
def test_evidence_on_any_other_version_of_the_runtime_has_expired(new_release, new_released, host, version):
    decision = resolve(new_release(new_released()), _ask(), host, runtimes={"onnxruntime": version})
    assert decision.outcome == "deny"
    assert decision.candidates[0].gate == "evidence"
    assert (
        f"evaluated on onnxruntime 1.31.1, installed is onnxruntime {version}"
        in decision.candidates[0].reason
    )
    assert decision.near_misses[0].gate == "evidence"


def test_a_runtime_that_is_not_installed_is_a_near_miss(new_release, new_released, host):
    release = new_release(new_released(), new_released("demo-flagship/1", "fp32", V3, "tvm", tier=1))
    decision = resolve(release, _ask(), host, runtimes={"onnxruntime": "1.31.1"})
    assert (decision.outcome, decision.tier) == ("allow", 2)
    assert "the runtime `tvm` is not installed" in _by_id(decision, ":tvm").reason
    assert [(miss.tier, miss.gate) for miss in decision.near_misses] == [(1, "hardware")]


def test_evidence_of_another_artifact_does_not_count(new_release, new_released, new_manifest, host, runtimes):
    one = new_released()
    other = one.model_copy(update={"manifest": new_manifest(build="b")})
    decision = resolve(new_release(other), _ask(), host, runtimes=runtimes)
    assert decision.outcome == "deny"
    assert "its evidence is of the artifact" in decision.candidates[0].reason


def test_an_approval_of_another_artifact_does_not_count(
    new_release, new_released, new_manifest, host, runtimes
):
    one = new_released()
    approval = one.approval.model_copy(update={"artifact": new_manifest(build="b").digest})
    decision = resolve(
        new_release(one.model_copy(update={"approval": approval})), _ask(), host, runtimes=runtimes
    )
    assert decision.candidates[0].gate == "approval"


def test_weights_and_cache_must_fit(new_release, new_released, host, runtimes):
    one = new_released(memory_bytes=10_000_000)
    kv_bytes = one.manifest.kv_bytes_per_token
    exact = -(-(10_000_000 + 2 * 100 * kv_bytes) * 10 // 9)
    request = _ask(context_tokens=100, batch=2)
    fits = host.model_copy(update={"memory_bytes": exact})
    assert resolve(new_release(one), request, fits, runtimes=runtimes).outcome == "allow"
    less = host.model_copy(update={"memory_bytes": exact - 2})
    decision = resolve(new_release(one), request, less, runtimes=runtimes)
    assert decision.candidates[0].gate == "capacity"
    assert "for 2 × 100 tokens of context" in decision.candidates[0].reason


def test_a_longer_context_than_the_checkpoint_has_is_refused(new_release, new_released, host, runtimes):
    decision = resolve(new_release(new_released()), _ask(context_tokens=1025), host, runtimes=runtimes)
    assert "holds 1024 tokens of context, asked for are 1025" in decision.candidates[0].reason


def test_a_pinned_artifact_is_the_only_one_that_will_do(new_release, new_released, host, runtimes):
    better, pinned = new_released("demo-flagship/1", tier=1), new_released("demo-small/1", tier=3)
    request = _ask(artifact=pinned.manifest.digest)
    decision = resolve(new_release(better, pinned), request, host, runtimes=runtimes)
    assert decision.chosen == pinned
    assert _by_id(decision, "flagship").gate == "pin"
    gone = resolve(new_release(better), request, host, runtimes=runtimes)
    assert gone.outcome == "deny"


@pytest.mark.parametrize(
    ("state", "gate", "said"),
    [
        ("failed", "evidence", "is failed: segfault"),
        ("unsupported", "evidence", "is unsupported: segfault"),
        ("expired", "evidence", "is expired: segfault"),
        ("loads", "evidence", "is loads: segfault"),
        ("evaluated", "approval", "is not in the release (evaluated: segfault)"),
        ("withdrawn", "approval", "is not in the release (withdrawn: segfault)"),
        ("approved", "approval", "is not in the release (approved: segfault)"),
        ("of-the-future", "evidence", "does not know the state `of-the-future`"),
    ],
)
def test_cells_outside_the_release_are_explained_and_never_taken(
    new_release, new_released, host, runtimes, state, gate, said
):
    other = UnreleasedCell(
        id=f"demo-flagship/1:fp32:{V3}:tvm", target=V3, state=state, reason="segfault", tasks={"reasoning": 1}
    )
    decision = resolve(new_release(new_released(), others=(other,)), _ask(), host, runtimes=runtimes)
    assert decision.tier == 2
    refused = _by_id(decision, ":tvm")
    assert refused.gate == gate
    assert said in refused.reason
    if gate == "approval":
        assert [(miss.tier, miss.gate) for miss in decision.near_misses] == [(1, "approval")]


def test_every_cell_of_the_ladder_is_in_the_decision_once(new_release, new_released, host, runtimes):
    cells = tuple(new_released(f"demo-mid/{n}", target=t) for n in range(3) for t in (V3, V4, ARM))
    others = tuple(
        UnreleasedCell(id=f"x/{n}:fp32:{V3}:tvm", target=V3, state="failed", reason="r") for n in range(4)
    )
    decision = resolve(new_release(*cells, others=others), _ask(), host, runtimes=runtimes)
    ids = [one.id for one in decision.candidates]
    assert sorted(ids) == sorted([c.cell.id for c in cells] + [o.id for o in others])
    lines = "\n".join(explain_decision(decision))
    markdown = explain_markdown(decision)
    assert all(one in lines and one in markdown for one in ids)
    assert Decision.model_validate_json(decision.model_dump_json()) == decision


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"family": "other"}, "holds the family `demo`, not `other`"),
        ({"task": "reasonin"}, "did you mean `reasoning`?"),
        ({"task": ("reasoning", "poetry")}, "no task type `poetry`"),
    ],
)
def test_what_the_release_cannot_answer_is_denied_with_its_reason(
    new_release, new_released, host, runtimes, change, said
):
    request = _ask().model_copy(update=change)
    decision = resolve(new_release(new_released()), request, host, runtimes=runtimes)
    assert decision.outcome == "deny"
    assert said in decision.reason


@pytest.mark.parametrize(
    "bad",
    [{"min_tier": 0}, {"task": ()}, {"task": ""}, {"task": ("a", "")}, {"batch": 0}, {"context_tokens": 0},
     {"artifact": "x"}, {"family": ""}, {"tier": 1}],
)  # fmt: skip
def test_a_request_that_asks_for_nothing_is_refused(bad):
    with pytest.raises(ValidationError):
        Request.model_validate({"family": "demo", "task": "reasoning", "min_tier": 1} | bad)


def test_other_gates_can_be_asked_in_their_place(new_release, new_released, host, runtimes):
    def lawful(_, facts):
        if facts.region is None:
            return GateResult("indeterminate", "the region is not known")
        return GateResult("deny", "not lawful there") if facts.region == "xx" else GateResult("pass")

    gates = tuple((name, lawful if name == "pin" else gate) for name, gate in GATES)
    release = new_release(new_released())
    outcomes = [
        resolve(release, _ask(region=region), host, runtimes=runtimes, gates=gates).outcome
        for region in (None, "xx", "yy")
    ]
    assert outcomes == ["indeterminate", "deny", "allow"]


# Laws. Cells are drawn over everything that the gates look at, weighted so that some pass them all; a law
# about what is allowed is held to examples where something is.

_TIERS = st.sampled_from([1, 2, 1, 2, 3, None])
_PLACES = st.tuples(
    st.sampled_from(["demo-flagship/1", "demo-mid/1", "demo-small/1"]),
    st.sampled_from(["fp32", "w4g32-gptq", "w8a8-dynamic"]),
    st.sampled_from([V3, V3, V3, V4, ARM, CUDA]),
    st.sampled_from(["onnxruntime", "tvm"]),
)
_CELLS = st.lists(
    st.tuples(
        _PLACES,
        st.fixed_dictionaries({"extraction": _TIERS, "reasoning": _TIERS}),
        st.sampled_from([1_000_000, 50_000_000, 900_000_000]),
        st.sampled_from([None, "waived"]),
        st.sampled_from([None, None, None, "1.31.1", "0.27.0"]),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda drawn: drawn[0],
)
_REQUESTS = st.builds(
    Request,
    family=st.just("demo"),
    task=st.sampled_from(["extraction", "reasoning", ("extraction", "reasoning")]),
    min_tier=st.sampled_from([4, 3, 3, 2, 1]),
    batch=st.sampled_from([1, 64]),
)
_FLAGS = sorted({*find_target(V4).features, *find_target(ARM).features})
_HOSTS = st.tuples(
    st.sampled_from(["x86_64", "x86_64", "x86_64", "aarch64", "unknown"]),
    st.sampled_from([{*find_target(name).features} for name in (V4, V3, ARM)])
    | st.sampled_from([{*find_target(V4).features}])
    | st.sets(st.sampled_from(_FLAGS)),
    st.sampled_from([64_000_000_000, 64_000_000_000, 2_000_000_000, 100_000_000, 10_000_000, 0]),
    st.lists(
        st.builds(
            Accelerator,
            architecture=st.sampled_from(["sm_90", "sm_80"]),
            memory_bytes=st.sampled_from([None, 10_000_000, 2_000_000_000]),
        ),
        max_size=2,
    ),
)
law = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
law_of_allowed = settings(
    law, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@pytest.fixture(scope="session")
def build(new_released, new_release):
    def make(drawn):
        return new_release(
            *(
                new_released(*place, earned=earned, memory_bytes=memory, waiver=waiver, version=version)
                for place, earned, memory, waiver, version in drawn
            )
        )

    return make


def _host(host, drawn):
    architecture, features, memory, accelerators = drawn
    return host.model_copy(
        update={
            "architecture": architecture,
            "features": tuple(sorted(features)),
            "memory_bytes": memory,
            "accelerators": tuple(accelerators),
        }
    )


@law_of_allowed
@given(
    cells=_CELLS,
    request=_REQUESTS,
    drawn=_HOSTS,
    more=st.sets(st.sampled_from(_FLAGS)),
    factor=st.integers(1, 50),
    added=_HOSTS.map(lambda drawn: drawn[3]),
)
def test_law_a_host_with_more_never_gets_a_worse_tier(
    build, host, runtimes, cells, request, drawn, more, factor, added
):
    release, small = build(cells), _host(host, drawn)
    large = _host(host, (drawn[0], drawn[1] | more, drawn[2] * factor, [*drawn[3], *added]))
    before = resolve(release, request, small, runtimes=runtimes)
    assume(before.outcome == "allow")
    after = resolve(release, request, large, runtimes=runtimes)
    assert after.outcome == "allow"
    assert after.tier <= before.tier


@law_of_allowed
@given(cells=_CELLS, request=_REQUESTS, drawn=_HOSTS)
def test_law_asking_for_less_never_turns_yes_into_no(build, host, runtimes, cells, request, drawn):
    release, machine = build(cells), _host(host, drawn)
    before = resolve(release, request, machine, runtimes=runtimes)
    assume(before.outcome != "deny")
    less = request.model_copy(update={"min_tier": request.min_tier + 1})
    after = resolve(release, less, machine, runtimes=runtimes)
    if before.outcome == "allow":
        assert after.chosen == before.chosen
    if before.outcome == "indeterminate":
        assert after.outcome != "deny"


@law
@given(cells=_CELLS, request=_REQUESTS, drawn=_HOSTS, data=st.data())
def test_law_removing_a_cell_never_improves_the_answer(build, host, runtimes, cells, request, drawn, data):
    machine = _host(host, drawn)
    gone = data.draw(st.integers(0, len(cells) - 1))
    before = resolve(build(cells), request, machine, runtimes=runtimes)
    after = resolve(build(cells[:gone] + cells[gone + 1 :]), request, machine, runtimes=runtimes)
    worth = {"allow": 2, "indeterminate": 1, "deny": 0}
    assert worth[after.outcome] <= worth[before.outcome]
    if after.tier is not None:
        assert after.tier >= before.tier


@law
@given(cells=_CELLS, request=_REQUESTS, drawn=_HOSTS, data=st.data())
def test_law_the_order_of_cells_does_not_matter(build, host, runtimes, cells, request, drawn, data):
    machine = _host(host, drawn)
    shuffled = data.draw(st.permutations(cells))
    decisions = [resolve(build(order), request, machine, runtimes=runtimes) for order in (cells, shuffled)]
    told = [one.model_dump(exclude={"release_digest"}) for one in decisions]
    assert told[0] == told[1]


@law_of_allowed
@given(cells=_CELLS, request=_REQUESTS, drawn=_HOSTS)
def test_law_what_is_allowed_really_meets_the_request(build, host, runtimes, cells, request, drawn):
    machine = _host(host, drawn)
    decision = resolve(build(cells), request, machine, runtimes=runtimes)
    assert (decision.chosen is not None) == (decision.outcome == "allow")
    assume(decision.chosen is not None)
    cell = decision.chosen.cell
    earned = {result.task_type: result.tier for result in cell.tasks}
    assert all(earned[task] <= request.min_tier for task in request.tasks)
    target = find_target(cell.target)
    assert missing_features(machine, target=target) == ()
    memories = [machine.memory_bytes]
    if target.kind != "cpu":
        memories = [one.memory_bytes or 0 for one in accelerators_for(target, machine)]
    assert decision.chosen.manifest.memory_bytes <= max(memories)
    assert decision.tiers == {task: earned[task] for task in request.tasks}


def _demands(release, level):
    return release.model_copy(update={"min_evidence": {"cpu-x86-64-v3": level}})


def test_an_artifact_below_the_evidence_that_the_release_demands_is_a_near_miss(
    new_release, new_released, host, runtimes
):
    release = new_release(new_released())
    request = Request(family="demo", task="reasoning", min_tier=2)
    assert resolve(_demands(release, "evaluated"), request, host, runtimes=runtimes).outcome == "allow"
    refused = resolve(_demands(release, "benchmarked"), request, host, runtimes=runtimes)
    assert refused.outcome == "deny"
    said = "its evidence reaches `evaluated`, the release demands `benchmarked` of `cpu-x86-64-v3`"
    assert (refused.candidates[0].gate, refused.candidates[0].reason) == ("evidence", said)
    assert [miss.gate for miss in refused.near_misses] == ["evidence"]


def test_a_low_demand_admits_an_artifact_but_earns_it_no_tier(new_release, new_released, host, runtimes):
    """Released below `evaluated`, it is refused for its quality, not for its evidence."""
    released = new_released()
    cell = released.cell
    steps = tuple(entry for entry in cell.evidence if entry.state in ("declared", "built"))
    bare = cell.model_copy(update={"evidence": steps, "tasks": (), "parity": None})
    release = new_release(released.model_copy(update={"cell": bare}))
    request = Request(family="demo", task="reasoning", min_tier=2)
    found = resolve(_demands(release, "built"), request, host, runtimes=runtimes).candidates[0]
    assert (found.gate, found.reason) == ("quality", "was never evaluated for `reasoning`")
    found = resolve(release, request, host, runtimes=runtimes).candidates[0]
    assert found.gate == "evidence", "without a demand of its own it has to be evaluated"
