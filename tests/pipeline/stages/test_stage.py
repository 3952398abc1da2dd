"""Build keys: each stage's key depends on the files that its work imports, and on no other."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compilers.backends import BACKENDS
from pipeline.build.nodes import STAGES
from pipeline.stages.backend_code import lowering_code, proof_code, rehearsal_code, runtime_code
from pipeline.stages.closure import PACKAGES, ROOT, import_closure
from pipeline.stages.stage import Stage, code_digest, digest_closure
from registry.digest import Digest
from registry.errors import NotFoundError
from registry.value import Value

ALL: dict[str, Stage[Value]] = {stage.name: stage for stages in STAGES.values() for stage in stages}


def entries() -> dict[str, tuple[str, ...]]:
    """Stage, with the name of a backend where one does a part of it → entry modules."""
    found: dict[str, tuple[str, ...]] = {}
    for name, stage in ALL.items():
        match name:
            case "lower":
                found |= {f"lower-{each}": stage.entries(*lowering_code(each)) for each in BACKENDS}
            case "verify" | "evaluate":
                found[name] = stage.entries(*runtime_code("onnxruntime"))
            case "rehearse":
                found |= {f"rehearse-{each}": stage.entries(*rehearsal_code(each)) for each in ("qnn", "tvm")}
            case "prove":
                found[name] = stage.entries(*proof_code("tvm"))
            case _:
                found[name] = stage.entries()
    return found


class Sources:
    """A copy of the packages' sources, to be changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        ignored = shutil.ignore_patterns("*.jsonl", "*.safetensors", "__pycache__")
        for package in PACKAGES:
            shutil.copytree(ROOT / package, root / package, ignore=ignored)
        self.before = self.digests()

    def digests(self) -> dict[str, Digest]:
        return {name: digest_closure(*modules, root=self.root) for name, modules in entries().items()}

    def changed_by(self, path: str) -> set[str]:
        """Stages whose code another comment in a file changes."""
        file = self.root / path
        text = file.read_text(encoding="utf-8")
        file.write_text(text + "\n# another comment\n", encoding="utf-8")
        try:
            after = self.digests()
        finally:
            file.write_text(text, encoding="utf-8")
        return {name for name in after if self.before[name] != after[name]}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"))


LOWERINGS = {f"lower-{name}" for name in BACKENDS}
WORK = "pipeline/stages/work"
INSIDE_AND_OUTSIDE = {
    "export": ("compilers/export/graph.py", "compilers/quantize/rtn.py"),
    "probe": ("compilers/model/tokenizer.py", "compilers/quantize/rtn.py"),
    "reference": ("evals/likelihood.py", "compilers/quantize/rtn.py"),
    "quantize": ("compilers/quantize/gptq.py", "compilers/export/graph.py"),
    "lower-onnxruntime": ("compilers/onnxruntime/emit.py", "compilers/tvm/lower.py"),
    "lower-tvm": ("compilers/tvm/gpu/attention.py", "compilers/onnxruntime/lower.py"),
    "lower-iree": ("compilers/static/emit.py", "compilers/qnn/lower.py"),
    "lower-qnn": ("compilers/qnn/lower.py", "compilers/iree/lower.py"),
    "lower-cann": ("compilers/portable/lower.py", "compilers/iree/lower.py"),
    "lower-openvino": ("compilers/portable/allow_list.toml", "compilers/qnn/lower.py"),
    "prove": ("compilers/tvm/proof.py", "compilers/quantize/rtn.py"),
    "rehearse-qnn": ("compilers/qnn/rehearse.py", "compilers/tvm/rehearse.py"),
    "rehearse-tvm": ("compilers/tvm/cpu/session.py", "compilers/qnn/run.py"),
    "verify": ("compilers/onnxruntime/run.py", "compilers/tvm/run.py"),
    "evaluate": ("evals/judge.py", "compilers/tvm/run.py"),
}
"""Stage → a file that its work imports, and one that it does not."""


def test_every_stage_has_a_case() -> None:
    assert set(INSIDE_AND_OUTSIDE) == set(entries())


@pytest.mark.parametrize("stage", INSIDE_AND_OUTSIDE)
def test_a_stage_is_changed_by_a_file_inside_its_closure_and_by_none_outside(
    stage: str, sources: Sources
) -> None:
    inside, outside = INSIDE_AND_OUTSIDE[stage]
    assert stage in sources.changed_by(inside)
    assert stage not in sources.changed_by(outside)


@pytest.mark.parametrize("stage", ALL)
def test_a_comment_in_another_stage_changes_no_key(stage: str, sources: Sources) -> None:
    own = {name for name in entries() if name == stage or name.startswith(f"{stage}-")}
    work = ALL[stage].work.partition(":")[0].replace(".", "/") + ".py"
    assert sources.changed_by(work) == own
    values = "checkpoint_probe" if stage == "probe" else stage
    assert sources.changed_by(f"pipeline/stages/{values}.py") <= own


def test_a_change_of_the_layout_of_weights_changes_quantize_and_every_lowering(sources: Sources) -> None:
    assert sources.changed_by("compilers/model/weights.py") >= {"quantize"} | LOWERINGS


@pytest.mark.parametrize("file", ["compilers/backends.py", "registry/targets.toml"])
def test_a_line_in_a_table_changes_no_key(file: str, sources: Sources) -> None:
    """Of a backend or target: a stage's key holds the modules of its own backend, and its own target."""
    assert sources.changed_by(file) == set()


def test_how_a_proof_reads_binaries_is_part_of_proofs_alone(sources: Sources) -> None:
    for path in ("compilers/proof/elf.py", "compilers/proof/graph.py", "compilers/proof/rules.py"):
        changed = sources.changed_by(path)
        assert "prove" in changed
        assert not changed & ({"export", "probe", "reference", "quantize", "verify", "evaluate"} | LOWERINGS)


def test_the_bounds_of_parity_are_part_of_what_compares_alone(sources: Sources) -> None:
    changed = sources.changed_by("compilers/check/measure.py")
    assert changed == {"verify", "rehearse-qnn", "rehearse-tvm"}


def test_an_entry_that_does_not_exist_is_refused() -> None:
    with pytest.raises(NotFoundError):
        code_digest("pipeline.stages.work.nothing")


def test_every_input_is_part_of_a_key() -> None:
    stage = ALL["export"]
    assert stage.key(files="a", add_bos=True) != stage.key(files="a", add_bos=False)
    assert stage.key(files="a") != ALL["prove"].key(files="a")


def test_a_stage_needs_stages_that_exist_and_come_before_it() -> None:
    for name, stage in ALL.items():
        earlier = list(ALL)[: list(ALL).index(name)]
        assert set(stage.needs) <= set(earlier)


def test_the_parent_process_imports_no_work_and_no_heavy_library() -> None:
    heavy = {"torch", "transformers", "tvm", "onnx", "onnxruntime", "lm_eval", "iree", "tokenizers"}
    code = (
        "import sys, pipeline.build.nodes, pipeline.stages.order\n"
        "print(*(m for m in sys.modules if m.partition('.')[0] in sys.argv or 'stages.work' in m))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


def test_the_tables_of_backends_drag_no_backend_into_a_closure() -> None:
    found = import_closure("compilers.backend")
    folders = {"tvm", "onnxruntime", "iree", "qnn", "portable"}
    assert not {name for name in found if folders & set(Path(name).parts)}
