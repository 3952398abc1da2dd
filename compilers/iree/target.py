"""Targets in IREE's words: the device that runs a module, and the compiler's options for it."""

from __future__ import annotations

from collections.abc import Mapping

from compilers.iree.binaries import Kind
from registry.recipe import Recipe
from registry.target import Target

CUDA_KNOWN = ("sm_80", "sm_86", "sm_89")
"""CUDA architectures that IREE has a description of; later ones fail with `missing GPU target`."""
DRIVERS = {"cuda": "cuda", "rocm": "hip", "vulkan": "vulkan"}
"""Kind of a target → IREE's driver; CPUs have two (`device.py`)."""
CODE: Mapping[str, Kind] = {"cpu": "elf", "cuda": "ptx", "rocm": "hsaco", "vulkan": "spirv"}
"""Kind of a target → the code that its modules hold."""
SPIRV_PROFILE = "vp_android_baseline_2022"
"""Limits that every driver in use has; the SPIR-V version and capabilities are given apart."""


def compiler_flags(target: Target, recipe: Recipe) -> list[str]:
    """What tells `iree-compile` the target."""
    match target.kind:
        case "cpu":
            return [
                "--iree-hal-target-device=local",
                "--iree-hal-local-target-device-backends=llvm-cpu",
                f"--iree-llvmcpu-target-triple={target.architecture}-unknown-linux-gnu",
                f"--iree-llvmcpu-target-cpu={target.llvm_cpu}",
                "--iree-llvmcpu-debug-symbols=false",
            ]
        case "cuda":
            return ["--iree-hal-target-device=cuda", f"--iree-cuda-target={target.architecture}"]
        case "rocm":
            return [
                "--iree-hal-target-device=hip",
                f"--iree-rocm-target={target.architecture}",
                "--iree-rocm-emit-debug-info=false",
            ]
        case _:
            return [
                "--iree-hal-target-device=vulkan",
                f"--iree-vulkan-target={SPIRV_PROFILE}",
                f"--iree-vulkan-target-features={spirv_features(target, recipe)}",
            ]


def spirv_features(target: Target, recipe: Recipe) -> str:
    """The SPIR-V version and the capabilities that code for a recipe needs.

    8- and 16-bit storage are optional in Vulkan 1.3 (they are in the Roadmap 2024 profile). IREE's emulation
    of bytes without them gives wrong numbers, and that of halves does not compile.
    """
    capabilities = ["Shader"]
    match recipe.weights:
        case "float16":
            capabilities += ["Float16", "StorageBuffer16BitAccess"]
        case "int8" | "int4":
            capabilities += ["Int8", "StorageBuffer8BitAccess", "UniformAndStorageBuffer8BitAccess"]
        case "float32":
            pass
    version = target.architecture.removeprefix("spirv-")
    return ",".join([f"spirv:v{version}", *(f"cap:{name}" for name in capabilities)])
