"""A field of provenance costs at most three files: `docs/how-to/add-a-provenance-field.md`, carried out."""

from __future__ import annotations

import json
from pathlib import Path

from tests.patches import applied

PROGRAM = '''
"""From this machine's chip to cells, by a build's records and by a signed evidence file."""
import os
import sys
from dataclasses import replace
from pathlib import Path

from matrices.ledger.db import open_database
from matrices.ledger.ledger import Ledger
from pipeline.build.records import Recorded
from pipeline.evidence.check import Verified
from pipeline.evidence.document import EvidenceFile, Measured, read_report, write_report
from pipeline.evidence.record import with_evidence
from pipeline.evidence.run import describe_node
from pipeline.stages.verify import VerifyOutput
from registry.signing import generate_keys
from registry.target import find_target
from registry.workspace import find_workspace
from serving.node.accelerator import chip_here
from serving.node.host import this_host
from tests.pipeline.build.test_compose import NOW, compose, progress, rehearsal

os.chdir(sys.argv[1])
workspace = find_workspace(Path())
chip = chip_here(find_target("cpu-x86-64-v3"), this_host())
on = replace(chip, firmware=chip.firmware or "0x1").measurement(runtime="onnxruntime", runtime_version="1")
output = VerifyOutput(parity=rehearsal(within=True).parity, measurement=on)

made = progress(target="cpu-x86-64-v3", made_as="onnxruntime", lacks="")
made = replace(made, cannot_run=(), verified=Recorded(output, NOW))
database = open_database(workspace.database_url)
built = Ledger(database).put_cell(compose(made))

other = progress(target="cpu-x86-64-v4", made_as="onnxruntime", lacks="avx512f")
pending = Ledger(database).put_cell(compose(other))
one = Measured(cell=pending.id, artifact=pending.artifact, measurement=on, verify=output)
report = EvidenceFile(
    kit=None, target="cpu-x86-64-v4", node=describe_node("cpu-x86-64-v4"), created_at=NOW, results=(one,)
)
generate_keys(Path("node.key"), Path("node.pub"))
write_report(report, path=Path("evidence.json"), private_key=Path("node.key"))
read, _ = read_report(Path("evidence.json"), trusted=[Path("node.pub")])
imported = Ledger(database).put_cell(with_evidence(pending, Verified(read.results[0], None, ()), by="a node"))
database.close()
print(on.firmware, built.id, imported.id)
'''


READ = '''
"""Golden files of before the field: signature, digest, and the field that is absent."""
import tests.matrices.releases.test_release as releases
import tests.pipeline.evidence.test_document as evidence
from matrices.releases.files import read_release
from pipeline.evidence.document import read_report
from pipeline.kit import read_kit
from registry.digest import canonical_json, digest_bytes

golden = releases.GOLDEN
release = read_release(golden / "release-3", public_key=golden / "rung.pub")
assert release.digest == releases.DIGESTS["release-3"]
report, _ = read_report(evidence.GOLDEN / "evidence-2.json", trusted=evidence.KEYS)
assert report.digest == evidence.DIGESTS["evidence-2.json"]
kit = read_kit(evidence.GOLDEN / "kit-1", public_key=evidence.GOLDEN / "rung.pub")
assert kit.digest == evidence.KIT_DIGESTS["kit-1"]
measured = [entry.measurement for entry in release.cells[0].cell.evidence if entry.measurement]
measured += [one.measurement for one in report.results]
assert {on.firmware for on in measured} == {None}
for document in (release, report, kit):
    assert digest_bytes(canonical_json(document.content)) == document.digest
'''

RUNG = "import os, sys; os.chdir(sys.argv.pop(1)); from pipeline.cli.main import main; main()"


def test_a_field_of_provenance_reaches_cells_by_a_build_and_by_a_node_at_a_cost_of_three_files(
    tmp_path: Path,
) -> None:
    work = str(tmp_path)
    with applied("add-a-provenance-field.patch", to=tmp_path / "tree") as (tree, touched):
        assert touched == {"matrices/cells/measurement.py", "serving/node/accelerator.py"}
        assert len(touched) <= 3
        tree.python("-c", READ)
        tree.python("-c", RUNG, work, "init")
        firmware, built, imported = tree.python("-c", PROGRAM, work).split()
        assert firmware
        for cell in (built, imported):
            shown = json.loads(tree.python("-c", RUNG, work, "matrix", "explain", cell, "--json"))
            assert shown["state"] == "close"
            assert [step["firmware"] for step in shown["evidence"]][-2:] == [firmware] * 2
            assert shown["evidence"][0]["firmware"] is None, "declaring a cell measures nothing"
