"""Rehearsal of portable artifacts: their graphs in ONNX Runtime's CPU provider, as a stand-in for the NPU.

It shows that the graphs compute what the variant does, and nothing about the vendor's compiler or chip.
"""

from __future__ import annotations

from compilers.rehearsal import Rehearsal
from compilers.runtime import Bundle
from compilers.static.onnx_step import open_onnx_session
from compilers.toolchain import Unsupported


def rehearse_portable(bundle: Bundle) -> Rehearsal | Unsupported:
    """Open an artifact of the format `portable` by the stand-in.

    Raises:
        LoadError: It is damaged.
    """
    try:
        import onnxruntime
    except ImportError as error:
        return Unsupported("not_implemented", f"onnxruntime cannot be imported: {error}")
    version = str(onnxruntime.__version__)
    return Rehearsal(
        session=open_onnx_session(bundle.path),
        means=f"ONNX Runtime {version} on the CPU",
        runtime_version=version,
    )
