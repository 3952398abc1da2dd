"""Static graphs in ONNX Runtime's CPU provider: reference, and stand-in for absent chips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compilers.plan_file import PLAN_NAME
from compilers.static.plan import StaticPlan, read_plan
from compilers.static.session import StaticSession, StepInputs, StepOutputs
from registry.errors import LoadError, ToolchainMissingError

PROVIDER = "CPUExecutionProvider"


class OnnxStep:
    """A `StaticStep` of one ONNX file.

    Args:
        path: The graph; its weights lie beside it.
        plan: The plan that belongs to it.
        threads: Threads that work.

    Raises:
        LoadError: The graph cannot be loaded, or its inputs are not the plan's.
        ToolchainMissingError: onnxruntime is not installed.
    """

    def __init__(self, path: Path, plan: StaticPlan, *, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ToolchainMissingError(
                f"onnxruntime cannot be imported: {error}", hint="install `rung[serve]`"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._path = path
        self._names = plan.inputs()
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=[PROVIDER])
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise LoadError(
                f"`{path}` cannot be loaded by onnxruntime: {error}",
                hint="pull or build the artifact again",
            ) from error
        if self._session.get_providers() != [PROVIDER]:
            raise LoadError(
                f"onnxruntime runs `{path}` on {self._session.get_providers()} instead of {PROVIDER}",
                hint="install the package `onnxruntime` alone",
            )
        for found, promised, kind in (
            (self._session.get_inputs(), self._names, "inputs"),
            (self._session.get_outputs(), plan.outputs(), "outputs"),
        ):
            if tuple(value.name for value in found) != promised:
                raise LoadError(
                    f"the {kind} of `{path}` are not those of its plan",
                    hint="graph and plan do not belong together; pull or build the artifact again",
                )

    def run(self, inputs: StepInputs) -> StepOutputs:
        """Run it once.

        Raises:
            LoadError: onnxruntime failed.
        """
        try:
            logits, *new = self._session.run(None, dict(zip(self._names, inputs.arrays(), strict=True)))
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise LoadError(
                f"onnxruntime failed on `{self._path}`: {error}", hint="free some memory"
            ) from error
        return StepOutputs(logits, new)


def open_onnx_session(directory: Path, *, threads: int = 1) -> StaticSession:
    """A session over the `decode.onnx` and `prefill.onnx` of a directory.

    Raises:
        LoadError: A file is missing or damaged.
        ToolchainMissingError: onnxruntime is not installed.
    """
    plan = read_plan(directory / PLAN_NAME)
    decode, prefill = (
        OnnxStep(directory / f"{step}.onnx", plan, threads=threads) for step in ("decode", "prefill")
    )
    return StaticSession(plan, decode=decode, prefill=prefill)
