"""A compiled context as a step of a static session, on a chip or on Qualcomm's emulation of one."""

from __future__ import annotations

from pathlib import Path

from compilers.plan_file import PLAN_NAME
from compilers.qnn.fallback import check_assignment
from compilers.qnn.provider import PROVIDER, HtpChip, Provider
from compilers.static.plan import STEPS, StaticPlan, read_plan
from compilers.static.session import StaticSession, StepInputs, StepOutputs
from registry.errors import BuildError, LoadError


class QnnStep:
    """A `StaticStep` of one compiled context.

    Raises:
        LoadError: It cannot be loaded, or is not that of the plan.
    """

    def __init__(self, path: Path, plan: StaticPlan, *, provider: Provider, chip: HtpChip) -> None:
        self._path = path
        self._names = plan.inputs()
        if not path.is_file():
            raise LoadError(f"no compiled graph at `{path}`", hint="pull or build the artifact again")
        try:
            self._session = provider.open(path, chip=chip)
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise LoadError(
                f"`{path}` cannot be loaded by onnxruntime-qnn {provider.version}: {error}",
                hint="the bundle is damaged, or was compiled for another chip or version",
            ) from error
        try:
            check_assignment(self._session, provider=PROVIDER, where=f"`{path.name}`")
        except BuildError as error:
            raise LoadError(error.message, hint="build the artifact again") from error
        found = [value.name for value in self._session.get_inputs()]
        made = [value.name for value in self._session.get_outputs()]
        if set(found) != set(self._names) or set(made) != set(plan.outputs()):
            raise LoadError(
                f"the inputs or outputs of `{path}` are not those of its plan",
                hint="graph and plan do not belong together; pull or build the artifact again",
            )
        self._outputs = plan.outputs()

    def run(self, inputs: StepInputs) -> StepOutputs:
        """Run it once.

        Raises:
            LoadError: The provider failed.
        """
        try:
            logits, *new = self._session.run(
                list(self._outputs), dict(zip(self._names, inputs.arrays(), strict=True))
            )
        except Exception as error:  # onnxruntime raises a dozen unrelated classes
            raise LoadError(f"QNN failed on `{self._path}`: {error}", hint="free some memory") from error
        return StepOutputs(logits, new)


def open_qnn_session(directory: Path, *, provider: Provider, chip: HtpChip) -> StaticSession:
    """A session over the compiled `decode.onnx` and `prefill.onnx` of a directory.

    Raises:
        LoadError: A file is missing, damaged, or does not run on this machine's HTP alone.
    """
    plan = read_plan(directory / PLAN_NAME)
    decode, prefill = (
        QnnStep(directory / f"{step}.onnx", plan, provider=provider, chip=chip) for step in STEPS
    )
    return StaticSession(plan, decode=decode, prefill=prefill)
