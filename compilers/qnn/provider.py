"""The door to ONNX Runtime's QNN execution provider: registration, devices, sessions that cannot fall back.

The provider is a plugin of its own package beside onnxruntime; its libraries are Qualcomm's, under Qualcomm's
licence. They are used where they are installed and copied nowhere.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from compilers.installed import required_version
from compilers.qnn.fallback import STRICT
from registry.errors import ToolchainMissingError
from registry.target import Target

Untyped: TypeAlias = Any
"""What onnxruntime returns: it ships no types."""

PROVIDER: Final = "QNNExecutionProvider"
VERSIONS: Final = ">=1.32"
"""Of onnxruntime: the first with which it was seen to work, and that tells where nodes went."""
INSTALL: Final = "pip install 'rung[qnn]'"


@dataclass(frozen=True, slots=True)
class HtpChip:
    """What HTP code is compiled for (`htp_arch` and `soc_model` of the provider's options)."""

    htp_arch: str
    soc_model: str
    """Qualcomm's number of the SoC whose memories the schedule is made for; float16 needs one."""


CHIPS: Final[Mapping[str, HtpChip]] = {
    "htp-v73": HtpChip("73", "60"),  # SC8380XP, Snapdragon X Elite
    "htp-v75": HtpChip("75", "57"),  # SM8650, Snapdragon 8 Gen 3
}
"""Architecture of a target → chip. Numbers: `QnnHtpDevice.h` of the QNN SDK, enum of SoC models."""


@dataclass(frozen=True, slots=True)
class Provider:
    """The registered provider."""

    onnxruntime: Untyped
    devices: tuple[Untyped, ...]
    """Devices that it offers: the emulation on x86-64, the NPU on a chip that has one."""
    backend: Path
    """Qualcomm's HTP library."""
    version: str
    """Of the provider's package, and of onnxruntime."""

    @property
    def emulates(self) -> bool:
        """Whether this machine has Qualcomm's emulation of the HTP instead of an HTP."""
        return platform.machine() == "x86_64"

    def open(self, model: Path, *, chip: HtpChip) -> Untyped:
        """A session of a compiled context; fails rather than run a node on the CPU.

        Raises:
            Exception: As onnxruntime raises: a dozen unrelated classes.
        """
        return self.onnxruntime.InferenceSession(str(model), self._options(chip, {}))

    def compile(
        self, model: bytes, *, weights: Path | None, out: Path, chip: HtpChip, strict: bool = True
    ) -> Untyped:
        """Compile a graph into the context `out` and the binary beside it; gives the session.

        The graph has no path of its own, since the name of its context would be a hash of that.

        Args:
            model: The ONNX file's bytes.
            weights: The file that its external data is in; its name is the one by which it is referred to.
            out: File to write.
            chip: What to compile for.
            strict: Whether to fail if a node would run on the CPU; the session tells in any case.

        Raises:
            Exception: As onnxruntime raises: a dozen unrelated classes.
        """
        entries = {
            "ep.context_enable": "1",
            "ep.context_embed_mode": "0",
            "ep.context_file_path": str(out),
        }
        if not strict:
            entries["session.disable_cpu_ep_fallback"] = "0"
        options = self._options(chip, entries)
        if weights is not None:
            data = np.memmap(weights, mode="r", dtype=np.uint8)
            options.add_external_initializers_from_files_in_memory([weights.name], [data], [len(data)])
        return self.onnxruntime.InferenceSession(model, options)

    def _options(self, chip: HtpChip, entries: Mapping[str, str]) -> Untyped:
        options = self.onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_provider_for_devices(
            list(self.devices),
            {
                "backend_path": str(self.backend),
                "htp_arch": chip.htp_arch,
                "soc_model": chip.soc_model,
                "enable_htp_fp16_precision": "1",
                # Quantization of the graph's own inputs and outputs would go to the CPU otherwise.
                "offload_graph_io_quantization": "0",
            },
        )
        for key, value in {**STRICT, **entries}.items():
            options.add_session_config_entry(key, value)
        return options


_found: list[Provider] = []


def find_provider() -> Provider:
    """The provider, registered with onnxruntime once per process.

    Raises:
        ToolchainMissingError: It is not installed, does not fit onnxruntime or this machine.
    """
    if not _found:
        _found.append(_register())
    return _found[0]


def chip_of(target: Target) -> HtpChip | None:
    """What code of a target is compiled for; None where it is none of Qualcomm's known chips."""
    return CHIPS.get(target.architecture)


def find_version() -> str:
    """Versions of the provider's package and of onnxruntime; imports neither.

    Raises:
        ToolchainMissingError: They are not installed, or in versions that do not work.
    """
    runtime = required_version("onnxruntime", versions=VERSIONS, extra="qnn")
    return f"{required_version('onnxruntime-qnn', extra='qnn')}+onnxruntime-{runtime}"


@dataclass(frozen=True, slots=True)
class _Files:
    library: Path
    backend: Path
    version: str


def _find_files() -> _Files:
    version = find_version()
    try:
        import onnxruntime_qnn
    except ImportError as error:
        raise ToolchainMissingError(f"the qnn toolchain cannot be used: {error}", hint=INSTALL) from error
    library, backend = Path(onnxruntime_qnn.get_library_path()), Path(onnxruntime_qnn.get_qnn_htp_path())
    for path in (library, backend):
        if not path.is_file():
            raise ToolchainMissingError(
                f"onnxruntime-qnn {version} has no `{path.name}` for this machine", hint=INSTALL
            )
    return _Files(library, backend, version)


def _register() -> Provider:
    files = _find_files()
    import onnxruntime

    # Without this each session warns of experimental features that are not used here.
    onnxruntime.set_default_logger_severity(3)
    try:
        onnxruntime.register_execution_provider_library(PROVIDER, str(files.library))
        devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        raise ToolchainMissingError(
            f"onnxruntime-qnn {files.version} cannot be used: {error}", hint=INSTALL
        ) from error
    if platform.machine() != "x86_64":
        npu = onnxruntime.OrtHardwareDeviceType.NPU
        devices = [device for device in devices if device.device.type == npu]
    if not devices:
        raise ToolchainMissingError(
            f"onnxruntime-qnn {files.version} offers no device on this machine",
            hint="use a machine with a Qualcomm NPU and its driver, or an x86-64 one for emulation",
        )
    return Provider(onnxruntime, tuple(devices), files.backend, files.version)
