"""Which modules of a backend a stage runs: part of the code that the stage's keys depend on.

Backends are named by strings that import closures do not follow, so that no stage depends on all of them.
"""

from __future__ import annotations

from compilers.backend import backend_module, backend_names, find_backend


def lowering_code(toolchain: str) -> tuple[str, ...]:
    """The modules that lower with a toolchain.

    Raises:
        UnknownNameError: No such toolchain.
    """
    return (find_backend(toolchain).toolchain.module,)


def proof_code(toolchain: str) -> tuple[str, ...]:
    """The modules that say what a toolchain's files must hold, and read what they do.

    Those of the other backends say what no artifact may hold.

    Raises:
        UnknownNameError: No such toolchain.
    """
    form = find_backend(toolchain).format
    rules = (rule.module for claims in form.claims.values() for rule in claims.rules)
    readers = (reader.module for reader in form.readers.values())
    return (*map(backend_module, backend_names()), *sorted({*rules, *readers}))


def runtime_code(toolchain: str) -> tuple[str, ...]:
    """The modules that run a toolchain's artifacts, and say how close they must be.

    Raises:
        UnknownNameError: No such toolchain.
    """
    return (backend_module(toolchain), find_backend(toolchain).format.runtime.module)


def rehearsal_code(toolchain: str) -> tuple[str, ...]:
    """The modules that run a toolchain's artifacts by other means, and say how close they must be.

    Raises:
        UnknownNameError: No such toolchain.
    """
    form = find_backend(toolchain).format
    rehearse = () if form.rehearse is None else (form.rehearse.module,)
    return (
        backend_module(toolchain),
        form.runtime.module,
        *rehearse,
    )  # an emulator runs the runtime's own code
