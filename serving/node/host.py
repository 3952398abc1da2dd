"""Facts of this machine: processor, memory, GPUs and NPUs, from which a node decides what it may run.

`this_host()` reads them from the kernel: architecture, processor flags, memory and cores with the control
group's limits (both versions) taken into account, the chip's own name, and the GPUs of NVIDIA and AMD.
`read_host()` takes the same facts from a file, to ask what another machine would be given.
"""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from compilers.backend import accelerators_here, formats
from registry.errors import ConfigurationError, ToolchainMissingError
from registry.host import Host
from registry.value import configuration_error
from serving.node.processor import (
    CPUINFO,
    architecture,
    control_groups,
    cores,
    memory_bytes,
    processor_flags,
    processor_name,
    read_text,
)

_WRITE_HOST_FILE = "write it on the machine in question: `rung doctor --json > host.json`"


def this_host() -> Host:
    """The machine that this process runs on."""
    groups = control_groups(read_text(Path("/proc/self/cgroup")), root=Path("/sys/fs/cgroup"))
    return Host(
        architecture=architecture(platform.machine()),
        features=processor_flags(read_text(CPUINFO)),
        memory_bytes=memory_bytes(groups),
        cores=cores(groups),
        chip=processor_name(),
        accelerators=accelerators_here(),
    )


def installed_runtimes() -> dict[str, str]:
    """Runtime → version, of those that can be used here."""
    found: dict[str, str] = {}
    for name, form in formats().items():
        with suppress(ToolchainMissingError):
            found[name] = form.runtime.load()().version()
    return found


def read_host(path: Path) -> Host:
    """The host that a JSON file describes: what `rung doctor --json` prints, or the fields of `Host` alone.

    Raises:
        ConfigurationError: The file is missing, is not JSON, or does not describe a host.
    """
    where = f"host file `{path}`"
    match _read_host_file(path):
        case {"machine": {"host": facts}}:
            pass
        case {"machine": _}:
            raise ConfigurationError(f"{where} has no `host` in its `machine`", hint=_WRITE_HOST_FILE)
        case facts:
            pass
    try:
        return Host.model_validate_json(json.dumps(facts))
    except ValidationError as error:
        raise configuration_error(error, where=where, hint=_WRITE_HOST_FILE, model=Host) from error


def read_runtimes(path: Path) -> dict[str, str] | None:
    """Runtime → version, as a host file lists them; None: it does not, as files of earlier versions do not.

    Raises:
        ConfigurationError: The file is missing, is not JSON, or lists something else than versions.
    """
    match _read_host_file(path):
        case {"machine": {"runtimes": {**listed}}} if all(isinstance(each, str) for each in listed.values()):
            return {str(name): str(version) for name, version in listed.items()}
        case {"machine": {"runtimes": _}}:
            raise ConfigurationError(
                f"host file `{path}`: `runtimes` does not list versions", hint=_WRITE_HOST_FILE
            )
        case _:
            return None


def _read_host_file(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        message = f"cannot read host file `{path}`: {error.strerror}"
        raise ConfigurationError(message, hint=_WRITE_HOST_FILE) from error
    except (ValueError, RecursionError) as error:
        message = f"host file `{path}` is not JSON: {error}"
        raise ConfigurationError(message, hint=_WRITE_HOST_FILE) from error
