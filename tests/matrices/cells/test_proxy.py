from __future__ import annotations

from matrices.cells.cell import VariantFacts
from matrices.cells.levels import evidence_level
from matrices.cells.missing import missing_evidence
from matrices.cells.proxy import proxies
from matrices.views.table import lay_out, matrix_json
from registry.digest import digest_value

TASKS = ("extraction", "reasoning", "tool-calling")


def _with_weights(cell, name="w"):
    facts = VariantFacts(
        weights=digest_value(name), weights_bytes=1000, parameters=500, kv_bytes_per_token=10
    )
    return cell.model_copy(update={"variant": facts})


def test_a_cell_that_was_not_evaluated_shows_what_the_same_weights_earned_elsewhere(new_cell):
    source = _with_weights(new_cell())
    cell = _with_weights(new_cell(target="cuda-sm90", toolchain="tvm", state="built"))
    found = proxies([source, cell])
    assert list(found) == [cell.id]
    assert found[cell.id].cell == source.id
    assert found[cell.id].words == f"evaluated by proxy: `{source.id}` on a chip"
    step = found[cell.id].evidence(cell)
    assert (step.via, step.digest, step.measurement.runtime_version) == ("proxy", None, "1.31.1")
    grid = lay_out([source, cell])
    assert grid.proxy_tiers(cell) == ("2", "2", "2")
    assert grid.tiers(cell) == ("·", "·", "·"), "a proxy earns no tier"


def test_a_proxy_lifts_a_cell_nowhere(new_cell):
    source = _with_weights(new_cell())
    cell = _with_weights(new_cell(target="cuda-sm90", toolchain="tvm", state="built"))
    plain = matrix_json([source, cell], tasks=TASKS)["cells"][1]
    assert plain["proxy"]["cell"] == source.id
    assert plain["level"] == evidence_level(cell) == "built"
    assert plain["missing"] == missing_evidence(cell, tasks=TASKS) != []


def test_other_weights_and_evidence_that_does_not_stand_are_no_proxies(new_cell):
    cell = _with_weights(new_cell(target="cuda-sm90", toolchain="tvm", state="built"))
    assert proxies([_with_weights(new_cell(), "other"), cell]) == {}
    assert proxies([new_cell(), cell]) == {}, "weights that are not on record are not the same"
    gone = new_cell().model_copy(update={"state": "expired", "reason": "the runtime moved"})
    assert proxies([_with_weights(gone), cell]) == {}
    assert proxies([_with_weights(new_cell(state="close")), cell]) == {}


def test_the_source_does_not_depend_on_the_order_of_cells(new_cell):
    cell = _with_weights(new_cell(target="cuda-sm90", toolchain="tvm", state="built"))
    sources = [_with_weights(new_cell(toolchain=name)) for name in ("onnxruntime", "tvm")]
    first = proxies([*sources, cell])[cell.id]
    assert proxies([cell, *reversed(sources)])[cell.id] == first
