from __future__ import annotations

from pathlib import Path

import pytest

from registry.digest import digest_value
from registry.errors import ConfigurationError, UnknownNameError
from registry.ladder import read_ladder

pytestmark = pytest.mark.smoke

GOOD = """
family = "demo"
targets = ["cpu-x86-64-v3"]
[[tier]]
checkpoint = "big"
recipes = ["fp32", "w4g32-gptq"]
[[tier]]
checkpoint = "small@prod"
recipes = ["fp32"]
[task.reasoning]
floor = [0.8, 0.5]
"""


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str, name: str = "ladder.toml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return _write


def test_a_ladder_is_read_with_its_recipes_and_targets(write):
    ladder = read_ladder(write(GOOD))
    assert [entry.checkpoint for entry in ladder.tier] == ["big", "small@prod"]
    assert [recipe.name for recipe in ladder.recipes(ladder.tier[0])] == ["fp32", "w4g32-gptq"]
    assert [target.llvm_cpu for target in ladder.parsed_targets()] == ["x86-64-v3"]
    assert ladder.digest == read_ladder(write(GOOD.replace("\n[", "\n\n["))).digest
    assert ladder.digest != read_ladder(write(GOOD.replace("0.5", "0.6"))).digest


def test_a_ladder_extends_another(write):
    write(GOOD, "base.toml")
    path = write('extends = "base.toml"\ntoolchains = ["tvm"]\n[task.tools]\nfloor = [1, 0]\n')
    ladder = read_ladder(path)
    assert ladder.toolchains == ("tvm",)
    assert set(ladder.task) == {"reasoning", "tools"}


def test_paths_of_a_base_in_another_folder_still_lead_to_its_files(write, tmp_path):
    (tmp_path / "shared").mkdir()
    base = GOOD.replace('family = "demo"', 'family = "demo"\ncalibration = "calibration.jsonl"')
    write(base + 'include = "tasks"\n', "shared/base.toml")
    ladder = read_ladder(write('extends = "shared/base.toml"\n'))
    assert ladder.calibration == "shared/calibration.jsonl"
    assert ladder.task["reasoning"].include == "shared/tasks"


def test_toolchains_go_by_patterns_of_targets_the_first_that_fits(write):
    table = '[toolchains]\n"cpu-x86-64-v3" = ["onnxruntime"]\n"cpu-*" = ["tvm"]\n'
    ladder = read_ladder(write(GOOD + table))
    assert ladder.toolchains_of("cpu-x86-64-v3") == ("onnxruntime",)
    assert ladder.toolchains_of("cpu-aarch64-neoverse-n1") == ("tvm",)
    assert ladder.toolchain_names == ("onnxruntime", "tvm")


def test_a_target_without_a_toolchain_is_refused_by_name(write):
    with pytest.raises(ConfigurationError, match="`toolchains` names none for the target"):
        read_ladder(write(GOOD + '[toolchains]\n"cuda-*" = ["tvm"]\n'))


def test_cyclic_extends_name_the_cycle(write):
    write('extends = "b.toml"\n', "a.toml")
    path = write('extends = "a.toml"\n', "b.toml")
    with pytest.raises(ConfigurationError, match=r"cyclic: b\.toml → a\.toml → b\.toml"):
        read_ladder(path)
    with pytest.raises(ConfigurationError, match=r"cyclic: self\.toml → self\.toml"):
        read_ladder(write('extends = "self.toml"\n', "self.toml"))


def test_the_same_checkpoint_twice_is_cyclic(write):
    with pytest.raises(ConfigurationError, match=r"`big` is in tier 1 and in tier 2.*cyclic"):
        read_ladder(write(GOOD.replace("small@prod", "big")))


@pytest.mark.parametrize(
    ("old", "new", "near"),
    [("cpu-x86-64-v3", "cpu-x86-64-v33", "cpu-x86-64-v3"), ("w4g32-gptq", "w4g32-gpqt", "w4g32-gptq")],
)
def test_an_unknown_target_or_recipe_gets_a_suggestion(write, old, new, near):
    with pytest.raises(UnknownNameError, match=f"`{new}`") as caught:
        read_ladder(write(GOOD.replace(old, new)))
    assert f"did you mean `{near}`" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("family = ", "is not TOML"),
        ("family = " + "9" * 5000, "is not TOML"),
        ("extends = 3\nfamily = 'x'", "extends must be a path"),
        ('extends = "none.toml"', "no ladder file at"),
        ('family = "demo"', "targets: Field required"),
        (GOOD.replace("[0.8, 0.5]", "[0.8]"), "1 values for 2 tiers"),
        (GOOD.replace("0.8", "80"), "accuracies from 0 to 1"),
        (GOOD.replace("floor", "flor"), "task.reasoning.floor: Field required"),
        (GOOD.replace('recipes = ["fp32"]', "recipes = []"), r"tier\.1\.recipes"),
        (GOOD + "margin_points = -1\n", "margin_points"),
        ("task = 3\nextends = 'base.toml'\n", "task must be tables"),
        ("extends = 'base.toml'\nfamily = 3\n", "family: "),
    ],
)
def test_what_is_no_ladder_is_refused_by_name(write, text, said):
    write(GOOD, "base.toml")
    with pytest.raises(ConfigurationError, match=said) as caught:
        read_ladder(write(text))
    assert caught.value.hint


def test_a_directory_or_binary_file_is_no_ladder(write, tmp_path):
    with pytest.raises(ConfigurationError, match="is a directory"):
        read_ladder(tmp_path)
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not TOML"):
        read_ladder(tmp_path / "b.toml")


def _demanding(tmp_path, table):
    path = tmp_path / "ladder.toml"
    path.write_text(
        'family = "f"\ntargets = ["cpu-x86-64-v3", "npu-qnn-v73"]\n[[tier]]\ncheckpoint = "a"\n'
        f'recipes = ["fp32"]\n[task.retrieval]\nfloor = [0.5]\n{table}'
    )
    return read_ladder(path)


def test_a_ladder_may_demand_evidence_per_target(tmp_path):
    ladder = _demanding(tmp_path, '[evidence]\nnpu-qnn-v73 = "portable"\n')
    assert ladder.demanded_evidence() == {"cpu-x86-64-v3": "evaluated", "npu-qnn-v73": "portable"}
    ladder = _demanding(tmp_path, '[evidence]\ndefault = "close"\nnpu-qnn-v73 = "portable"\n')
    assert ladder.demanded_evidence()["cpu-x86-64-v3"] == "close"


def test_a_ladder_without_demands_is_what_it_was_before_there_were_any(tmp_path):
    ladder = _demanding(tmp_path, "")
    assert ladder.demanded_evidence() == {}
    document = ladder.model_dump(mode="json")
    assert document.pop("evidence") == {}
    for name in ("chat_template", "system_prompt", "num_fewshot", "fewshot_as_multiturn"):
        assert document["task"]["retrieval"].pop(name) is None
    assert ladder.digest == digest_value(document)


@pytest.mark.parametrize("table", ['[evidence]\ncuda-sm90 = "built"\n', '[evidence]\ndefault = "perfect"\n'])
def test_a_demand_of_another_target_or_level_is_refused(tmp_path, table):
    with pytest.raises(ConfigurationError, match="evidence"):
        _demanding(tmp_path, table)


def test_settings_of_prompts_count_in_the_digest_only_where_they_are_given(write):
    texts = ("", "chat_template = false\n", "num_fewshot = 0\n", 'system_prompt = "s"\n')
    assert len({read_ladder(write(GOOD + text)).digest for text in texts}) == 4


def test_plain_text_has_no_turns(write):
    with pytest.raises(ConfigurationError, match="plain text has no turns"):
        read_ladder(write(GOOD + "chat_template = false\nfewshot_as_multiturn = true\n"))


@pytest.mark.parametrize(
    ("text", "near"),
    [
        (GOOD.replace("family =", "famly ="), "family"),
        (GOOD + "margin_point = 3.0\n", "margin_points"),
        (GOOD + "\n[evaluation]\nbatchsize = 4\n", "batch_size"),
        (GOOD + '\n[evidence]\ndefault = "evaluted"\n', "evaluated"),
        (GOOD + '\n[[tier]]\ncheckpoint = "z"\nrecipe = ["fp32"]\n', "recipes"),
    ],
)
def test_a_key_or_value_that_is_almost_right_is_answered_with_the_right_one(
    text: str, near: str, tmp_path: Path
) -> None:
    path = tmp_path / "ladder.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        read_ladder(path)
    assert f"did you mean `{near}`" in refused.value.hint
