"""An AArch64 userland in a folder: Debian's Python and C library, and the runtimes' wheels.

`python -m compilers.aarch64_emulation.root FOLDER` makes one in about a minute; nothing is installed on
this machine, and no root rights are needed. `RUNG_AARCH64_ROOT=FOLDER` then lets artifacts for AArch64 be
rehearsed under QEMU. Debian's packages are checked by apt against Debian's keys.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from registry.errors import BuildError, RungError, ToolchainMissingError

SUITE = "bookworm"
PYTHON_VERSION = "3.11"
"""Of that suite, and so of the wheels."""
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCES = (
    ("http://deb.debian.org/debian", SUITE),
    ("http://deb.debian.org/debian", f"{SUITE}-updates"),
    ("http://deb.debian.org/debian-security", f"{SUITE}-security"),
)
DEBIAN = (
    "libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libffi8",
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib",
)  # fmt: skip
WHEELS = ("numpy", "pydantic", "safetensors", "apache-tvm-ffi", "onnxruntime")
"""With what they depend on, in the versions that are installed here."""
OPTIONAL_WHEELS = ("iree-base-runtime",)
"""Runtimes that are taken where they are installed here."""
RUNTIME_FILES = ("tvm/lib/libtvm_runtime.so", ".dist-info/METADATA")
"""What of TVM's 95 MB a node needs."""
PLATFORMS = (
    "manylinux_2_28_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux_2_17_aarch64",
    "manylinux2014_aarch64",
)
CPUINFO = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd03
CPU revision\t: 4

"""
"""What programs read at /proc/cpuinfo. QEMU 7 would show this machine's own, and ONNX Runtime 1.32 crashes
if it finds no Arm processor there; features it asks of the kernel."""
TIMEOUT_S = 900


def make_root(folder: Path) -> Path:
    """Make the userland; a folder that holds one of the same packages is left as it is.

    Raises:
        BuildError: Something could not be fetched or unpacked.
        ToolchainMissingError: This machine has no apt, dpkg or Debian's keys.
    """
    folder = folder.absolute()  # apt is run in a folder of its own
    wanted = _wanted()
    if _made_of(folder) == wanted:
        return folder
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise ToolchainMissingError(f"no `{program}` here", hint="make the root on a Debian system")
    if not KEYRING.exists():
        raise ToolchainMissingError(f"no `{KEYRING}`", hint="install the package `debian-archive-keyring`")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rung-root-", dir=folder.parent) as name:
        work = Path(name)
        made = work / "root"
        made.mkdir(mode=0o755)
        _unpack_debian(work, made)
        _unpack_wheels(work, made / "site")
        (made / "proc").mkdir()
        (made / "proc" / "cpuinfo").write_text(CPUINFO, encoding="utf-8")
        (made / "root.json").write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m compilers.aarch64_emulation.root", description="Make an AArch64 root"
    )
    parser.add_argument("folder", type=Path)
    try:
        made = make_root(parser.parse_args(arguments).folder)
    except RungError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(f"{made.resolve()}\n")
    return 0


def _wanted() -> dict[str, str]:
    """What a root is made of."""
    names = (*_wheels(), "apache-tvm", "pydantic-core")
    return {"suite": SUITE, "python": PYTHON_VERSION, **{name: _version(name) for name in names}}


def _wheels() -> tuple[str, ...]:
    return (*WHEELS, *(name for name in OPTIONAL_WHEELS if any(metadata.distributions(name=name))))


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError as error:
        raise ToolchainMissingError(
            f"`{name}` is not installed, whose version the root takes", hint="install `rung[serve]`"
        ) from error


def _requirement(name: str) -> str:
    """A wheel in the version that is installed here; of numpy any: its newest ones need a newer Python."""
    return name if name == "numpy" else f"{name}=={_version(name)}"


def _made_of(folder: Path) -> dict[str, str] | None:
    try:
        return dict(json.loads((folder / "root.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _unpack_debian(work: Path, made: Path) -> None:
    apt = work / "apt"
    for part in ("lists/partial", "cache/archives/partial", "packages"):
        (apt / part).mkdir(parents=True)
    lines = [f"deb [signed-by={KEYRING}] {url} {suite} main" for url, suite in SOURCES]
    (apt / "sources.list").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::Lists": apt / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": apt / "cache",
    }
    options = [f"-o{name}={value}" for name, value in settings.items()]
    _run(["apt-get", "-qq", *options, "update"], folder=apt)
    _run(["apt-get", "-qq", *options, "download", *DEBIAN], folder=apt / "packages")
    for package in sorted((apt / "packages").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(made)], folder=apt)


def _unpack_wheels(work: Path, site: Path) -> None:
    wheels = work / "wheels"
    platforms = [option for platform in PLATFORMS for option in ("--platform", platform)]
    pip = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--only-binary=:all:", "--python-version", PYTHON_VERSION, "--implementation", "cp", *platforms,
        "--dest", str(wheels),
    ]  # fmt: skip
    _run([*pip, *map(_requirement, _wheels())], folder=work)
    # The compiler's own dependencies are no part of a node.
    _run([*pip, "--no-deps", f"apache-tvm=={_version('apache-tvm')}"], folder=work)
    site.mkdir()
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            if wheel.name.startswith("apache_tvm-"):
                names = [name for name in names if name.endswith(RUNTIME_FILES)]
            archive.extractall(site, names)


def _run(command: Sequence[str], *, folder: Path) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"`{command[0]}` failed: {error}", hint="check the network") from error
    if done.returncode != 0:
        raise BuildError(
            f"`{command[0]}` failed: {(done.stderr or done.stdout).strip()[-800:]}", hint="check the network"
        )


if __name__ == "__main__":
    sys.exit(main())
