"""Kernels → machine code: a fatbin of cubins for CUDA, a code object for ROCm; OpenCL C for rehearsals.

TVM writes CUDA C, which `nvcc` compiles here, on the build machine: an artifact with source in it would
make every node need a compiler. For ROCm, TVM's LLVM writes the object and `ld.lld` links it.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compilers.tvm.gpu.code import PrimFunc
from compilers.tvm.gpu.plan import GpuPlan, KernelForm
from compilers.tvm.gpu.templates import kernel_digest, make_kernel
from compilers.tvm.gpu.tools import Nvcc, find_lld, find_nvcc, tool_version
from registry.errors import BuildError
from registry.target import Target

Module = Any
"""A `tvm.IRModule`; TVM ships no types."""
Source = Literal["cuda", "opencl"]
TIMEOUT_S = 900
FATBIN_MAGIC = b"\x50\xed\x55\xba"
"""First bytes of a fatbin, 0xBA55ED50 (fatbinary_section.h of the CUDA toolkit)."""
EM_AMDGPU = 224


@dataclass(frozen=True, slots=True)
class Compiled:
    """Machine code, and the plan that says how it is called."""

    plan: GpuPlan
    code: bytes
    compiler: str
    """What made it, beside TVM: `nvcc 13.0.88`, `ld.lld 19.1.7`."""


@dataclass(frozen=True, slots=True)
class _LoweredKernels:
    """Kernels as device functions of a target."""

    module: Module
    target: Any  # Any: TVM's target


def make_kernels(plan: GpuPlan) -> dict[str, PrimFunc]:
    """The kernels that a plan names.

    Raises:
        BuildError: The plan names templates or options of another version.
    """
    return {name: make_kernel(name, form) for name, form in plan.kernels.items()}


def compile_kernels(plan: GpuPlan, target: Target) -> Compiled:
    """Machine code of a plan's kernels for all architectures of a target.

    Raises:
        BuildError: A compiler failed, or what it made is not machine code for the target.
        ToolchainMissingError: A compiler is not installed.
    """
    kernels = make_kernels(plan)
    match target.kind:
        case "cuda":
            nvcc = find_nvcc()
            lowered = _lower(kernels, {"kind": "cuda", "arch": target.architectures[0]})
            code = _compile_cuda(_write(lowered, "cuda"), nvcc, target)
            compiler = f"nvcc {tool_version(nvcc.command)}"
        case "rocm":
            linker = find_lld()
            options = {
                "kind": "rocm", "mcpu": target.architecture, "mtriple": "amdgcn-amd-amdhsa-hcc",
                "max_num_threads": 256, "max_threads_per_block": 256,
            }  # fmt: skip
            lowered = _lower(kernels, options)
            code = _compile_rocm(lowered, linker, target)
            compiler = f"ld.lld {tool_version(linker)}"
        case _:
            raise BuildError(f"no GPU code for `{target.name}`", hint="choose a CUDA or ROCm target")
    return Compiled(_complete(plan, kernels, lowered), code, compiler)


def write_source(kernels: Mapping[str, PrimFunc], language: Source) -> str:
    """The kernels as CUDA C or OpenCL C.

    Raises:
        BuildError: TVM failed.
    """
    return _write(_lower(kernels, {"kind": language}), language)


def _write(lowered: _LoweredKernels, language: Source) -> str:
    import tvm

    try:
        built = tvm.get_global_func(f"target.build.{language}")(lowered.module, lowered.target)
        return str(built.inspect_source())
    except (RuntimeError, ValueError, TypeError) as error:
        raise _failed(language, error) from error


def _complete(plan: GpuPlan, kernels: Mapping[str, PrimFunc], lowered: _LoweredKernels) -> GpuPlan:
    """The plan with each kernel's digest and the order of its arguments."""
    forms: dict[str, KernelForm] = {}
    for name, form in plan.kernels.items():
        parameters = lowered.module[f"{name}_kernel"].params
        # TVM names a buffer's address after the buffer.
        arguments = tuple(str(parameter.name).removesuffix("_ptr") for parameter in parameters)
        digest = kernel_digest(kernels[name])
        forms[name] = form.model_copy(update={"arguments": arguments, "digest": digest})
    return plan.model_copy(update={"kernels": forms})


def _compile_cuda(source: str, nvcc: Nvcc, target: Target) -> bytes:
    generate = []
    for architecture in target.architectures:
        number = architecture.removeprefix("sm_")
        generate += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
    with tempfile.TemporaryDirectory(prefix="rung-cuda-") as name:
        folder = Path(name)
        (folder / "kernels.cu").write_text(source, encoding="utf-8")
        # No fast math: divisions and subnormal numbers are as on every other target.
        command = [*nvcc.command, "--fatbin", "-O3", "-std=c++17", "--threads", "0", *generate]
        _run([*command, "kernels.cu", "-o", "kernels.fatbin"], folder, target, dict(nvcc.environment))
        code = (folder / "kernels.fatbin").read_bytes()
    if not code.startswith(FATBIN_MAGIC) or b"__global__" in code:
        raise BuildError(
            f"`nvcc` made no machine code for `{target.name}`", hint="see the log; check the CUDA toolkit"
        )
    return code


def _compile_rocm(lowered: _LoweredKernels, linker: tuple[str, ...], target: Target) -> bytes:
    import tvm
    import tvm_ffi

    made: list[bytes] = []
    failures: list[BuildError] = []

    def link(code: bytes) -> bytearray:
        try:
            made.append(_link(bytes(code), linker, target))
        except BuildError as error:  # kept from passing through TVM, which would make another one of it
            failures.append(error)
        return bytearray(made[-1] if made else b"")

    tvm_ffi.register_global_func("tvm_callback_rocm_link", link, override=True)
    # No bitcode of the vendor: kernels call no function of its library, and the linker would say so.
    tvm_ffi.register_global_func("tvm_callback_rocm_bitcode_path", lambda *_: [], override=True)
    try:
        tvm.get_global_func("target.build.rocm")(lowered.module, lowered.target)
    except (RuntimeError, ValueError, TypeError) as error:
        raise (failures or [_failed(target.name, error)])[0] from error
    if failures:
        raise failures[0]
    _check_code_object(made, target)
    return made[-1]


def _link(code: bytes, linker: tuple[str, ...], target: Target) -> bytes:
    with tempfile.TemporaryDirectory(prefix="rung-rocm-") as name:
        folder = Path(name)
        (folder / "kernels.o").write_bytes(code)
        command = [*linker, "--no-undefined", "--build-id=none", "-shared", "kernels.o"]
        _run([*command, "-o", "kernels.hsaco"], folder, target, None)
        return (folder / "kernels.hsaco").read_bytes()


def _check_code_object(made: list[bytes], target: Target) -> None:
    """The linker was called, and what it made is code for an AMD GPU of that name."""
    problem = None
    if not made:
        problem = "the linker was not called"
    elif made[-1][:4] != b"\x7fELF" or int.from_bytes(made[-1][18:20], "little") != EM_AMDGPU:
        problem = "the code object is no AMD GPU's"
    elif f"-{target.architecture}".encode() not in made[-1]:
        problem = f"the code object does not name {target.architecture}"
    if problem:
        raise BuildError(f"`{target.name}`: {problem}", hint="see the log; check `ld.lld`")


def _lower(kernels: Mapping[str, PrimFunc], options: Mapping[str, Any]) -> _LoweredKernels:
    import tvm
    from tvm import tirx

    target = tvm.target.Target(dict(options), host=tvm.target.Target("llvm"))
    module = tvm.IRModule(dict(kernels))
    pipeline, _, finish = tirx.get_default_tir_pipeline(target)
    # Both passes only cost here: kernels name what they use twice, and LLVM and NVIDIA's compiler look again.
    config = {"tirx.disable_cse_tir": True, "tirx.disable_storage_rewrite": True}
    try:
        with tvm.transform.PassContext(opt_level=3, config=config), target:
            module = pipeline(tirx.transform.BindTarget(target)(module))
            device = finish()(tirx.transform.Filter(_is_device)(module))
    except (RuntimeError, ValueError, TypeError) as error:
        raise _failed(str(options["kind"]), error) from error
    return _LoweredKernels(device, target)


def _is_device(function: PrimFunc) -> bool:
    return int(function.attrs.get("calling_conv", 0)) == 2


def _run(command: list[str], folder: Path, target: Target, environment: dict[str, str] | None) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"`{command[0]}` failed for `{target.name}`: {error}", hint="see the log") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()[-20:]
        raise BuildError(
            f"`{command[0]}` failed for `{target.name}` with status {done.returncode}: {chr(10).join(lines)}",
            hint="see the log; check the compiler's version",
        )


def _failed(name: str, error: BaseException) -> BuildError:
    return BuildError(f"tvm could not compile for `{name}`: {error}", hint="see the log")
