from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pytest
from rich.console import Console

from matrices.cells.cell import VariantFacts
from matrices.releases.release import UnreleasedCell
from matrices.releases.ruling import Ruling
from matrices.views.cell_page import CellPage, cell_json, explain_cell
from matrices.views.diff import diff_cells, diff_lines, diff_markdown, diff_releases
from matrices.views.render import matrix_markdown, matrix_table
from matrices.views.table import lay_out, matrix_json, one_line, size, summary, task_codes
from registry.digest import digest_value

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
RECIPES = ("fp32", "w4g32-gptq", "w8a8-dynamic")


def _drawn(renderable, *, width: int, color: str | None = None) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=color is not None, color_system=color).print(renderable)
    return stream.getvalue()


@pytest.fixture
def cells(new_cell):
    listed = [
        new_cell(f"demo-agent-{name}/1", recipe, toolchain=toolchain, tier=tier)
        for tier, name in enumerate(("flagship", "mid", "small"), start=1)
        for recipe in RECIPES
        for toolchain in ("onnxruntime", "tvm")
    ]
    said = "segfault \x1b[31mhere\x1b[0m\n[/bold] | pipe"
    listed[-1] = new_cell("demo-agent-small/1", "w8a8-dynamic", toolchain="tvm", state="failed", reason=said)
    listed[3] = new_cell(
        "demo-agent-flagship/1", "w4g32-gptq", toolchain="tvm", state="approved", tier=1,
        earned={"extraction": 1, "reasoning": None},
    )  # fmt: skip
    return listed


@pytest.fixture
def rulings(cells):
    one = cells[3]
    ruling = Ruling(
        cell=one.id, verb="approve", who="Ada", why="good", at=NOW, artifact=one.artifact,
        waiver="for the demo",
        missing=("never evaluated for `tool-calling`",),
    )  # fmt: skip
    return {one.id: ruling}


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_the_matrix_fits_the_terminal_and_shows_every_cell(cells, rulings, width):
    text = _drawn(matrix_table(cells, width=width, rulings=rulings), width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert text.count("● evaluated  ") == 17
    assert text.count("✓ approved*") == 1
    assert "18 cells: 1 approved, 16 evaluated, 1 failed" in text


def test_tiers_stand_below_the_codes_of_their_tasks(cells, rulings):
    lines = _drawn(matrix_table(cells, width=120, rulings=rulings), width=120).splitlines()
    head = next(line for line in lines if "ex re tc" in line)
    row = next(number for number, line in enumerate(lines) if "approved*" in line)
    tiers = lines[row + 1]
    start = head.rindex("ex re tc")
    assert tiers[start : start + 8] == " 1  –  ·"


def test_reasons_and_waivers_are_told_without_colours_or_markup_of_their_own(cells, rulings):
    text = " ".join(_drawn(matrix_table(cells, width=160, rulings=rulings), width=160).split())
    assert (
        "✗ failed: segfault here [/bold] | pipe (demo-agent-small/1:w8a8-dynamic:cpu-x86-64-v3:tvm)" in text
    )
    assert "waiver: for the demo" in text
    assert "\x1b" not in text


def test_tiers_that_the_same_weights_earned_elsewhere_are_in_brackets(new_cell):
    facts = VariantFacts(weights=digest_value("w"), weights_bytes=1000, parameters=500, kv_bytes_per_token=10)
    source = new_cell().model_copy(update={"variant": facts})
    cell = new_cell(target="cuda-sm90", toolchain="tvm", state="built").model_copy(update={"variant": facts})
    assert "(2  2  2)" in _drawn(matrix_table([source, cell], width=120), width=120)
    assert "(2  2  2)" not in _drawn(matrix_table([cell], width=120), width=120)


def test_what_a_recipe_leaves_in_float_is_in_the_matrix_and_explained(new_cell):
    left = tuple(f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(2))
    facts = VariantFacts(
        weights=digest_value("w"), weights_bytes=1, parameters=5, kv_bytes_per_token=1, left_in_float=left
    )
    cell = new_cell().model_copy(update={"variant": facts})
    assert "2 in float" in " ".join(_drawn(matrix_table([cell], width=160), width=160).split())
    text = "\n".join(explain_cell(CellPage(cell)))
    assert "2 matrices are left in float: down_proj, such as `model.layers.0.mlp.down_proj.weight`" in text
    assert "left in float" not in "\n".join(explain_cell(CellPage(new_cell())))


@pytest.mark.parametrize(
    ("recipe", "toolchain", "wide", "words"),
    [
        (
            "w8a8-dynamic",
            "onnxruntime",
            2,
            "rounded to 8 bits per token, but for those of 2 matrices (q_proj)",
        ),
        ("w8a8-dynamic", "tvm", 0, "rounded to 8 bits per token"),
        ("w4g32-rtn", "tvm", 2, "rounded to 8 bits per group of 32, but for those of 2 matrices (q_proj)"),
        ("w8g64-rtn", "onnxruntime", 0, "rounded to 8 bits per group of 64"),
        ("w8g64-rtn", "tvm", 2, "rounded to 16 bits per group of 64"),
        ("w4g32-rtn", "iree", 2, "not rounded"),
        ("w8a16", "qnn", 0, "rounded to 16 bits, in ranges from a calibration set"),
        ("w8a8-dynamic", "of-another-package", 0, "rounded to 8 bits per token"),
        ("fp32", "tvm", 0, None),
    ],
)
def test_what_is_rounded_in_products_is_explained(new_cell, recipe, toolchain, wide, words):
    names = tuple(f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(wide))
    facts = VariantFacts(
        weights=digest_value("w"), weights_bytes=1, parameters=5, kv_bytes_per_token=1, wide_inputs=names
    )
    cell = new_cell().model_copy(update={"variant": facts, "recipe": recipe, "toolchain": toolchain})
    lines = [line for line in explain_cell(CellPage(cell)) if line.startswith("  inputs")]
    expected = [] if words is None else [f"  inputs     {words}"]
    assert [line.replace(", which have outliers and keep 15 bits or more", "") for line in lines] == expected


def test_no_color_is_respected(cells, monkeypatch):
    assert "\x1b[" in _drawn(matrix_table(cells), width=120, color="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    text = _drawn(matrix_table(cells), width=120, color="standard")
    assert "\x1b[3" not in text


def test_more_columns_than_fit_go_into_more_tables(new_cell):
    targets = ("cpu-x86-64-v3", "cpu-x86-64-v4", "cpu-aarch64-neoverse-n1", "cuda-sm90")
    many = [new_cell(target=target, toolchain=tool) for target in targets for tool in ("onnxruntime", "tvm")]
    text = _drawn(matrix_table(many, width=100), width=100)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert all(target in text for target in targets)
    assert text.count("checkpoint ") == 4


def test_an_empty_matrix_says_how_to_fill_it():
    assert "rung build" in _drawn(matrix_table([]), width=80)


def test_markdown_has_a_row_per_variant_and_keeps_its_columns(cells, rulings):
    lines = matrix_markdown(cells, rulings=rulings).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 9
    assert {line.replace("\\|", "").count("|") for line in table} == {5}
    assert any("✓ approved\\*<br>2.0 MB<br>ex 1, re –, tc ·" in line for line in table)
    assert any("waiver: for the demo" in line for line in lines)


def test_json_holds_every_cell_whole(cells, rulings):
    data = json.loads(json.dumps(matrix_json(cells, rulings=rulings)))
    assert data["tasks"] == ["extraction", "reasoning", "tool-calling"]
    assert [one["id"] for one in data["cells"]] == [cell.id for cell in cells]
    approved = data["cells"][3]
    assert approved["earned"] == {"extraction": 1, "reasoning": None}
    assert approved["ruling"]["waiver"] == "for the demo"
    assert "never evaluated for `tool-calling`" in approved["missing"]


def test_task_codes_are_short_and_unique():
    tasks = [
        "tool-calling",
        "extraction",
        "reasoning",
        "retrieval",
        "instruction-following",
        "x",
        "x-",
        "",
    ]
    codes = task_codes(tasks)
    assert len(set(codes.values())) == len(tasks)
    assert (codes["tool-calling"], codes["instruction-following"], codes["extraction"]) == ("tc", "if", "ex")
    assert all(1 <= len(code) <= 3 for code in codes.values())


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, ""),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (2_345_678, "2.3 MB"),
        (415e9, "415 GB"),
        (2e12, "2.0 TB"),
    ],
)
def test_sizes_are_decimal(size_bytes, text):
    assert size(size_bytes) == text


def test_one_line_keeps_words_apart():
    assert one_line("a\n\tb\x00 \x1b[1;31mc\u200b") == "a b c"


def test_a_summary_of_nothing_counts_nothing():
    assert summary([]) == "0 cells"
    assert lay_out([]).rows == ()


def test_a_summary_counts_one_cell_in_the_singular(new_cell):
    assert summary([new_cell()]) == "1 cell: 1 evaluated"


def test_a_cell_is_told_in_full(new_cell, rulings):
    cell = new_cell(within=False, earned={"extraction": 2, "reasoning": None})
    text = "\n".join(
        explain_cell(CellPage(cell, history=cell.evidence, tasks=("tool-calling",), releases=("r1", "r2")))
    )
    for said in (
        cell.id, cell.artifact, "OUTSIDE THE BOUND", "6.00e-04 nats", "99.00% of 512 positions", "r1, r2",
        "extraction: tier 2, accuracy 0.850 on 400 of 400 samples", "reasoning: no tier", "tier 1 fail",
        "margin 2", "onnxruntime 1.31.1", "missing for approval", "- never evaluated for `tool-calling`",
        "- `reasoning` does not hold tier 2",
    ):  # fmt: skip
        assert said in text


def test_a_waiver_stands_at_the_top_of_what_is_told(cells, rulings):
    cell = cells[3]
    page = CellPage(cell, history=(*cell.evidence, *rulings.values()))
    lines = explain_cell(page)
    assert "WAIVER     for the demo (Ada)" in lines[2]
    data = json.loads(json.dumps(cell_json(page)))
    assert data["ruling"]["waiver"] == "for the demo"
    assert {one["kind"] for one in data["history"]} == {"evidence", "ruling"}


def test_two_versions_of_a_checkpoint_are_compared_place_by_place(new_cell):
    before = [new_cell("demo-mid/1"), new_cell("demo-mid/1", "fp32"), new_cell("demo-mid/1", toolchain="tvm")]
    after = [
        new_cell("demo-mid/2", kl=0.002, accuracy=0.8, memory_bytes=5_000_000,
                 earned={"extraction": 1, "reasoning": None, "tool-calling": 2}),
        new_cell("demo-mid/2", toolchain="tvm", state="failed", reason="segfault"),
        new_cell("demo-mid/2", "w4g32-rtn"),
    ]  # fmt: skip
    diff = diff_cells(before, after, names=("demo-mid/1", "demo-mid/2"))
    kinds = {one.place: one.kind for one in diff.cells}
    assert sorted(kinds.values()) == ["added", "changed", "changed", "removed"]
    changed = next(one for one in diff.cells if one.changes and one.place.endswith("onnxruntime"))
    told = {(c.what, c.task): (c.before, c.after, c.direction) for c in changed.changes}
    assert told[("kl", None)] == ("6.00e-04 nats", "2.00e-03 nats", "worse")
    assert told[("tier", "extraction")] == ("2", "1", "better")
    assert told[("tier", "reasoning")] == ("2", "none", "worse")
    assert told[("accuracy", "extraction")] == ("0.850", "0.800", "worse")
    assert told[("size", None)][2] == "worse"
    assert ("tier", "tool-calling") not in told
    fell = next(one for one in diff.cells if one.changes and one.place.endswith("tvm"))
    assert fell.changes[0].model_dump()["direction"] == "worse"
    text = "\n".join(diff_lines(diff))
    assert "+ demo-mid:w4g32-rtn" in text
    assert "- demo-mid:fp32" in text
    assert "0 of 4 places are the same" in text
    assert diff_markdown(diff).count("\n| `") == sum(len(one.changes) or 1 for one in diff.cells)


def test_the_same_cells_have_no_differences(cells):
    diff = diff_cells(cells, cells, names=("a", "b"))
    assert {one.kind for one in diff.cells} == {"same"}
    assert diff_lines(diff) == ["a → b", "18 of 18 places are the same"]


def test_several_versions_on_one_side_are_kept_apart(new_cell):
    both = [new_cell("demo-mid/1"), new_cell("demo-mid/2")]
    diff = diff_cells(both, [new_cell("demo-mid/2")], names=("a", "b"))
    assert [(one.place.split(":")[0], one.kind) for one in diff.cells] == [
        ("demo-mid/1", "removed"),
        ("demo-mid/2", "same"),
    ]


def test_releases_are_compared_with_what_they_left_out(new_release, new_released):
    one = new_released()
    other = UnreleasedCell(
        id=one.cell.id, target=one.cell.target, state="withdrawn", reason="r", tasks={"extraction": 2}
    )
    diff = diff_releases(new_release(one), new_release(others=(other,), name="r2"))
    changes = {(c.what, c.task): c.after for c in diff.cells[0].changes}
    assert changes[("state", None)] == "withdrawn"
    assert changes[("tier", "reasoning")] == "not measured"
    assert diff.cells[0].changes[0].direction == "worse"
