"""The prove stage: what compiled files hold, as standard tools read it.

Its work is part of a lower request (`lower.py`), which has the files on disk.
"""

from __future__ import annotations

from collections.abc import Mapping

from compilers.proof.proof import Proof
from pipeline.stages.backend_code import proof_code
from pipeline.stages.stage import Stage, StageKey, code_digest
from registry.digest import Digest
from registry.target import Target
from registry.value import Value


class ProveOutput(Value):
    """What the compiled files hold, as standard tools read it."""

    proof: Proof


PROVE = Stage("prove", work="pipeline.stages.work.prove:prove_files", output=ProveOutput, needs=("lower",))


def prove_code(toolchain: str) -> Digest:
    """The digest of the code that proves a toolchain's files, as the build machine has it."""
    return code_digest(*PROVE.entries(*proof_code(toolchain)))


def prove_key(
    *, lowered: Mapping[str, object], target: Target, toolchain: str, code: Digest
) -> StageKey[ProveOutput]:
    """The key of the proof of compiled files.

    Args:
        lowered: The lowering's output as JSON, without its log.
        target: What they were compiled for.
        toolchain: What compiled them.
        code: `prove_code` of the build machine.
    """
    return PROVE.key_of(code, lowered=lowered, target=target, toolchain=toolchain)
