from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.evidence.document import read_report
from pipeline.kit import Kit, write_kit
from tests.pipeline.evidence.conftest import ROOT, TARGET, Box, Build, run_kit

BANNED = ("torch", "mlflow", "sqlalchemy", "sqlmodel", "alembic", "transformers", "onnx", "lm_eval")


def read_kit_index(kit: Path) -> Kit:
    return Kit.read_json(kit / "kits" / TARGET / "kit.json")


def test_a_kit_names_everything_that_a_run_needs_and_nothing_of_the_build_machine(build: Build):
    kit = read_kit_index(build.kit)
    assert [one.cell for one in kit.subjects] == sorted(one.cell for one in kit.subjects)
    assert kit.tasks[0].bars[0].floor == 0.0
    wanted = {entry.digest for entry in kit.blobs}
    wanted |= {file.digest for one in kit.subjects for file in one.manifest.files}
    held = {f"sha256:{path.name}" for path in (build.kit / "store" / "blobs" / "sha256").iterdir()}
    assert wanted <= held
    assert str(build.place.root) not in (build.kit / "kits" / TARGET / "kit.json").read_text()
    again = build.place.must("evidence", "export", "ladder.toml", "--target", TARGET, "--all")
    assert kit.digest[7:19] in again.err, "equal content is the same kit"


def test_a_kit_may_be_taken_from_a_published_workspace(build: Build, box: Box):
    build.place.must("evidence", "export", "ladder.toml", "--target", TARGET, "--all")
    ran = box.rung(
        "evidence", "run", "--target", TARGET, "--from", str(build.workspace.state),
        "--trusted", "builder.pub", "--key", "node.key", "--out", "from.json", "--only", "parity",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    report, _ = read_report(box.root / "from.json", trusted=[box.root / "node.pub"])
    assert [one.problem for one in report.results] == [None, None]
    assert all(one.speed is None for one in report.results)


def test_a_run_goes_on_where_an_earlier_one_ended_and_measures_nothing_twice(build: Build, box: Box):
    first = read_kit_index(build.kit).subjects[0].cell
    assert run_kit(box, build.kit, "part.json", "--cell", first, "--work", "going").code == 0
    part, _ = read_report(box.root / "part.json", trusted=[box.root / "node.pub"])
    assert [one.cell for one in part.results] == [first]
    assert run_kit(box, build.kit, "whole.json", "--work", "going").code == 0
    whole, _ = read_report(box.root / "whole.json", trusted=[box.root / "node.pub"])
    assert whole.results[0] == part.results[0], "to the very time"
    assert len(whole.results) == 2


def test_one_artifact_that_does_not_load_is_told_and_the_others_are_measured(
    build: Build, box: Box, tmp_path: Path
):
    kit = read_kit_index(build.kit)
    bad = kit.subjects[0].manifest.model_copy(update={"entry": "config.json"})
    subjects = (kit.subjects[0].model_copy(update={"manifest": bad}), *kit.subjects[1:])
    copy = tmp_path / "kit"
    shutil.copytree(build.kit, copy)
    changed = kit.model_copy(update={"subjects": subjects})
    write_kit(changed, kits=copy / "kits", private_key=build.workspace.private_key)
    ran = run_kit(box, copy, "bad.json", "--only", "parity")
    assert ran.code == 0, ran.err
    report, _ = read_report(box.root / "bad.json", trusted=[box.root / "node.pub"])
    assert report.results[0].problem.code in ("load", "crash")
    assert report.results[0].verify is None
    assert report.results[1].problem is None
    assert report.results[1].verify.parity.within
    assert report.quality == "not asked"


def test_a_damaged_blob_of_a_kit_costs_its_artifact_alone(build: Build, box: Box, tmp_path: Path):
    kit = read_kit_index(build.kit)
    own = {file.digest for file in kit.subjects[0].manifest.files} - {
        file.digest for file in kit.subjects[1].manifest.files
    }
    copy = tmp_path / "kit"
    shutil.copytree(build.kit, copy)
    blob = copy / "store" / "blobs" / "sha256" / min(own).removeprefix("sha256:")
    blob.chmod(0o644)
    blob.write_bytes(b"x" * blob.stat().st_size)
    ran = run_kit(box, copy, "damaged.json", "--only", "parity")
    assert ran.code == 0, ran.err
    report, _ = read_report(box.root / "damaged.json", trusted=[box.root / "node.pub"])
    assert report.results[0].problem.code == "corrupt"
    assert report.results[1].problem is None


def test_a_kit_that_was_changed_or_signed_by_another_is_refused(build: Build, box: Box, tmp_path: Path):
    copy = tmp_path / "kit"
    shutil.copytree(build.kit, copy)
    index = copy / "kits" / TARGET / "kit.json"
    index.write_text(index.read_text().replace('"floor":0.0', '"floor":0.1', 1))
    ran = run_kit(box, copy, "x.json")
    assert ran.code == 8
    assert "is not what was signed" in ran.err
    ran = box.rung(
        "evidence", "run", "--target", TARGET, "--kit", str(build.kit), "--trusted", "node.pub", "--key",
        "node.key", "--out", "x.json",
    )  # fmt: skip
    assert ran.code == 8
    assert not (box.root / "x.json").exists()


def test_a_machine_without_the_hardware_says_so_in_its_evidence(build: Build, box: Box, tmp_path: Path):
    kit = read_kit_index(build.kit)
    subjects = tuple(
        one.model_copy(update={"manifest": one.manifest.model_copy(update={"target": "cuda-sm90"})})
        for one in kit.subjects
    )
    made = kit.model_copy(update={"target": "cuda-sm90", "subjects": subjects})
    write_kit(made, kits=tmp_path / "kits", private_key=build.workspace.private_key)
    shutil.copytree(build.kit / "store", tmp_path / "store")
    ran = box.rung(
        "evidence", "run", "--target", "cuda-sm90", "--kit", str(tmp_path), "--trusted", "builder.pub",
        "--key", "node.key", "--out", "cuda.json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    report, _ = read_report(box.root / "cuda.json", trusted=[box.root / "node.pub"])
    accelerators = report.node.host.accelerators
    if not any(one.architecture.startswith("sm_9") for one in accelerators):
        assert {one.problem.code for one in report.results} == {"hardware"}


def test_a_node_needs_neither_torch_nor_a_database_nor_lm_eval(build: Build, box: Box):
    """With those packages made impossible to import in the command's own process."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({BANNED}))\n"
        "from pipeline.cli.main import run\n"
        f"sys.exit(run(['evidence', 'run', '--target', '{TARGET}', '--kit', {str(build.kit)!r}, '--trusted',"
        " 'builder.pub', '--key', 'node.key', '--out', 'light.json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=box.root,
        env={"PATH": "/usr/bin:/bin", "HOME": str(box.root), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    report, _ = read_report(box.root / "light.json", trusted=[box.root / "node.pub"])
    assert report.quality == "lm-eval is not installed"
    assert all(one.verify and one.speed and not one.scorecards for one in report.results)


def test_usage_that_cannot_be_meant_is_told(build: Build, box: Box):
    assert box.rung("evidence", "run", "--target", TARGET, "--out", "x.json").code == 2
    ran = run_kit(box, build.kit, "x.json", "--only", "beauty")
    assert (ran.code, "`--only beauty`" in ran.err) == (2, True)
    ran = box.rung("evidence", "run", "--target", TARGET, "--kit", str(build.kit), "--out", "x.json")
    assert (ran.code, "no key to sign with" in ran.err) == (2, True)
    ran = build.place.rung("evidence", "export", "ladder.toml", "--target", "cpu-x86-64-v9")
    assert ran.code == 2
    assert "unknown target `cpu-x86-64-v9`" in ran.err
    assert "did you mean" in ran.err
