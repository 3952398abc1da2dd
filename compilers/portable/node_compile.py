"""Compilation on the node: the commands that a portable artifact's manifest names are run, once.

The vendor's compiler stands on the node alone, so this is the half of `lower` that the build machine could
not do. The manifest is signed, and still no more is run than it needs: the tools below, without a shell, with
arguments that name only files of the bundle and of the output directory.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compilers.runtime import Bundle
from registry.checkpoint import FileEntry
from registry.digest import Digest, digest_file, short
from registry.errors import BuildError, LoadError, RefusedError, ToolchainMissingError
from registry.value import Value

OPTION: Final = "node_compile"
"""Key of the manifest's options: commands in the shell's quoting, joined by ` && `."""
LOG_TAIL_CHARACTERS: Final = 8000
_JOIN: Final = "&&"
_PLACEHOLDER: Final = re.compile(r"\{(\w*)\}")
_STEP_S: Final = 10.0


class NodeCompile(Value):
    """What became of an artifact's compilation on a node."""

    artifact: Digest
    """The artifact that was compiled."""
    target: str
    """Its target."""
    ok: bool
    """Every command ended with 0, and the last one left a file."""
    tool: str
    """The compiler: `atc`, `compile_tool` …; several are joined by `, `."""
    tool_version: str
    """As the tool or its installation states it, else the digest of its executable; joined like `tool`."""
    commands: tuple[str, ...]
    """What was run, with the placeholders as in the manifest."""
    outputs: tuple[FileEntry, ...]
    """Files in the output directory, sorted by path."""
    log_tail: str
    """The last 8,000 characters that the commands printed."""
    seconds: float
    """Wall time of all commands."""


@dataclass(frozen=True, slots=True)
class _Tool:
    """A compiler that may be run."""

    package: str
    """What to install."""
    version: Callable[[Path], str | None]
    """Its version, if it can be told, from the path of its executable."""


def node_compile(bundle: Bundle, *, out: Path, timeout_s: float = 7200.0) -> NodeCompile:
    """Compile a portable artifact with the toolkit of this machine.

    A compiler that fails or hangs is a result (`ok` is false), not an error.

    Args:
        bundle: A verified bundle of the format `portable`.
        out: Where the compiled files go; made if missing, and empty.
        timeout_s: Limit of each command, in seconds.

    Raises:
        LoadError: The artifact has no command to be compiled by.
        RefusedError: The command names another program than the known compilers, or files elsewhere.
        ToolchainMissingError: A compiler is not installed on this machine.
        BuildError: `out` is not empty.
    """
    manifest = bundle.manifest
    commands = read_commands(manifest.options.get(OPTION), artifact=manifest.digest)
    tools = tuple(dict.fromkeys(command[0] for command in commands))
    programs = {name: _find(name) for name in tools}
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise BuildError(f"`{out}` is not empty", hint="give a directory that does not exist yet")
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rung-node-compile-") as scratch:
        log = Path(scratch) / "log"
        ok = all(
            _run(programs, _fill(command, bundle=bundle.path, out=out), log=log, timeout_s=timeout_s)
            for command in commands
        )
        text = log.read_text(encoding="utf-8", errors="replace")
    seconds = time.monotonic() - start
    outputs = tuple(
        FileEntry(
            path=path.relative_to(out).as_posix(), digest=digest_file(path), size_bytes=path.stat().st_size
        )
        for path in sorted(out.rglob("*"))
        if path.is_file()
    )
    if ok and not outputs:
        ok, text = False, text + "\nevery command ended with 0, and none left a file"
    return NodeCompile(
        artifact=manifest.digest,
        target=manifest.target,
        ok=ok,
        tool=", ".join(tools),
        tool_version=", ".join(tool_version(name, programs[name]) for name in tools),
        commands=tuple(shlex.join(command) for command in commands),
        outputs=outputs,
        log_tail=text[-LOG_TAIL_CHARACTERS:],
        seconds=seconds,
    )


def read_commands(text: object, *, artifact: str) -> tuple[tuple[str, ...], ...]:
    """The commands of a manifest, checked: one tuple of arguments each, placeholders unfilled.

    Raises:
        LoadError: There is none, or it cannot be read.
        RefusedError: It would run something else than a known compiler on the bundle's own files.
    """
    if not isinstance(text, str) or not text.strip():
        raise LoadError(
            f"artifact {short(artifact)} names no command to compile it by",
            hint="only artifacts of the format `portable` are compiled on the node",
        )
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise LoadError(
            f"artifact {short(artifact)} has a command that cannot be read: {error}",
            hint="build the artifact again",
        ) from error
    commands: list[list[str]] = [[]]
    for word in words:
        if word == _JOIN:
            commands.append([])
        else:
            commands[-1].append(word)
    for command in commands:
        _check(command, artifact=artifact)
    return tuple(tuple(command) for command in commands)


def tool_version(name: str, program: Path) -> str:
    """The version of a compiler, or the digest of its executable where none is stated."""
    return TOOLS[name].version(program) or digest_file(program)


def _check(command: Sequence[str], *, artifact: str) -> None:
    hint = "do not compile this artifact; build it again from a source that you trust"
    if not command or command[0] not in TOOLS:
        what = f"`{command[0]}`" if command else "nothing"
        raise RefusedError(
            f"artifact {short(artifact)} wants to run {what}, which is none of "
            + ", ".join(f"`{name}`" for name in TOOLS),
            hint=hint,
        )
    for argument in command[1:]:
        places = set(_PLACEHOLDER.findall(argument)) - {"bundle", "out"}
        rest = argument.replace("{bundle}/", "").replace("{out}/", "")
        if places or "/" in rest or "\\" in rest or ".." in rest or "\0" in rest:
            raise RefusedError(
                f"artifact {short(artifact)} gives `{command[0]}` the argument `{argument}`, "
                "which names a file outside of the bundle",
                hint=hint,
            )


def _fill(command: Sequence[str], *, bundle: Path, out: Path) -> list[str]:
    def fill(argument: str) -> str:
        filled = argument.replace("{bundle}", str(bundle.resolve()))
        return filled.replace("{out}", str(out.resolve()))

    return [command[0], *(fill(argument) for argument in command[1:])]


def _find(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise ToolchainMissingError(
            f"`{name}` is not on this machine", hint=f"{TOOLS[name].package}, and put `{name}` on PATH"
        )
    return Path(found).resolve()


def _run(programs: Mapping[str, Path], command: Sequence[str], *, log: Path, timeout_s: float) -> bool:
    """Run one command in a directory of its own: compilers leave caches where they stand."""
    with log.open("a", encoding="utf-8") as stream, tempfile.TemporaryDirectory() as place:
        stream.write(f"$ {shlex.join(command)}\n")
        stream.flush()
        with subprocess.Popen(
            [str(programs[command[0]]), *command[1:]],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                status = process.wait(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                stream.write(f"\nstopped after {timeout_s:g} s\n")
                return False
            finally:
                _end(process)
        if status != 0:
            stream.write(f"\n`{command[0]}` ended with {status}\n")
        return status == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a command and of the processes that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
    process.wait(timeout=_STEP_S)


def _atc_version(program: Path) -> str | None:
    """CANN's version, from `ascend_toolkit_install.info` beside the architecture's own folder.

    https://www.hiascend.com/document/detail/en/canncommercial/850/softwareinst/instg/instg_0064.html
    """
    for folder in program.parents[:5]:
        for pattern in ("ascend_toolkit_install.info", "*-linux/ascend_toolkit_install.info"):
            for file in folder.glob(pattern):
                text = file.read_text(encoding="utf-8", errors="replace")
                if found := re.search(r"^version=(\S+)", text, re.MULTILINE):
                    return found[1]
    return None


def _openvino_version(program: Path) -> str | None:
    """OpenVINO's version, which its tools print before their usage."""
    try:
        ended = subprocess.run(
            [str(program), "-h"], capture_output=True, text=True, timeout=_STEP_S * 6, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"OpenVINO Runtime version\s*\.*\s*(\S+)", ended.stdout + ended.stderr)
    return found[1] if found else None


TOOLS: Final[Mapping[str, _Tool]] = {
    "atc": _Tool("install Huawei's CANN toolkit and source its `set_env.sh`", _atc_version),
    "compile_tool": _Tool(
        "build OpenVINO's NPU compile tool beside a driver of the NPU (docs/toolchains/openvino.md)",
        _openvino_version,
    ),
    "ovc": _Tool("install OpenVINO (`pip install openvino`)", _openvino_version),
}
"""Programs that a manifest may name; never an interpreter or a shell."""
