"""A command costs one file: `docs/how-to/add-a-command.md`, carried out."""

from __future__ import annotations

from pathlib import Path

from tests.patches import applied


def test_a_command_is_one_new_file(tmp_path: Path) -> None:
    with applied("add-a-command.patch", to=tmp_path) as (tree, touched):
        assert touched == {"pipeline/cli/verbs/targets.py"}
        assert "cpu-x86-64-v3" in tree.python("-m", "pipeline.cli.main", "targets").split()
        shown = tree.python("-m", "pipeline.cli.main", "--help")
        assert "  targets       List the targets that a ladder may name\n" in shown
        assert shown.index("  checkpoint ") < shown.index("  targets ") < shown.index("  build ")
    assert not (tmp_path / "pipeline/cli/verbs/targets.py").exists()
