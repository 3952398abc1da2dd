"""Rehearsal of HTP context binaries on an x86-64 machine, by the emulation in Qualcomm's own library.

It runs the very binary of the artifact, with the HTP's arithmetic. It does not tell chips apart: that a
binary loads here says nothing of the architecture that it was compiled for.
"""

from __future__ import annotations

from compilers.qnn.provider import chip_of, find_provider
from compilers.qnn.step import open_qnn_session
from compilers.rehearsal import Rehearsal
from compilers.runtime import Bundle
from compilers.toolchain import Unsupported
from registry.errors import LoadError, ToolchainMissingError
from registry.target import find_target


def rehearse_qnn(bundle: Bundle) -> Rehearsal | Unsupported:
    """Open an artifact of the format `qnn` by emulation.

    Raises:
        LoadError: It is damaged, or does not run by the emulation alone.
    """
    chip = chip_of(find_target(bundle.manifest.target, where="the manifest"))
    if chip is None:
        raise LoadError(
            f"artifact of target `{bundle.manifest.target}` in the format `qnn`",
            hint="build it again for one of Qualcomm's HTPs",
        )
    try:
        provider = find_provider()
    except ToolchainMissingError as error:
        return Unsupported("not_implemented", error.message)
    if not provider.emulates:
        return Unsupported("not_upstream", "Qualcomm emulates the HTP on x86-64 only")
    return Rehearsal(
        session=open_qnn_session(bundle.path, provider=provider, chip=chip),
        means=f"QNN HTP emulation {provider.version.partition('+')[0]} on x86-64",
        runtime_version=provider.version,
    )
