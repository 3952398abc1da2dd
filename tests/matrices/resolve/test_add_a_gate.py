"""A gate with a new fact costs at most four files: `docs/how-to/add-a-gate.md`, carried out."""

from __future__ import annotations

from pathlib import Path

from tests.patches import applied

ASK = """
import os
from matrices.resolve.candidate import Candidate
from matrices.resolve.gates import GATES
from matrices.resolve.request import Request
from registry.host import Host
from serving.node.choose import node_facts
from tests.serving.support import make_cell, make_manifest

released = make_cell(make_manifest(), tiers={"reasoning": 1})
candidate = Candidate(
    id=released.cell.id, target=released.cell.target, earned={"reasoning": 1}, released=released
)
request = Request(family="tiny-family", task="reasoning", min_tier=1)
host = Host(architecture="x86_64", features=(), memory_bytes=1 << 34, cores=1)
for accepted in (None, "apache-2.0,mit", "mit"):
    if accepted is not None:
        os.environ["RUNG_ACCEPTED_LICENCES"] = accepted
    found = dict(GATES)["licence"](candidate, node_facts(request, host, runtimes={}))
    print(found.outcome, found.reason)
"""


def test_a_gate_with_a_new_fact_touches_at_most_four_files(tmp_path: Path) -> None:
    with applied("add-a-gate.patch", to=tmp_path) as (tree, touched):
        code = {path for path in touched if not path.startswith("tests/")}
        assert len(code) <= 4, code
        assert touched - code == {"tests/matrices/resolve/test_gates.py"}
        assert tree.python("-c", ASK).splitlines() == [
            "pass ",
            "pass ",
            "deny is under the licence apache-2.0, accepted here are mit",
        ]
        tree.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/matrices/resolve/test_gates.py")
