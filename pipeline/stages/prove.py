"""The prove stage: what compiled files hold, as standard tools read it."""

from __future__ import annotations

from compilers.proof.proof import Proof
from registry.value import Value


class ProveOutput(Value):
    """What the compiled files hold, as standard tools read it."""

    proof: Proof
