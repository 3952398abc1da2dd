"""A session whose artifact runs in an emulated process (`serve.py`), and the rehearsal over it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import compilers
import registry
from compilers.aarch64_emulation.environment import EMULATORS, ROOT_VARIABLE
from compilers.aarch64_emulation.wire import WireMessage, read_message, write_message
from compilers.ragged_cache import check_cache_size, check_segments
from compilers.rehearsal import Rehearsal
from compilers.runtime import Bundle, Cache, FloatArray, Segment
from compilers.toolchain import Unsupported
from registry.artifact import MANIFEST_NAME
from registry.digest import digest_value, short
from registry.errors import LoadError
from registry.target import Target, find_target

PYTHON = "usr/bin/python3.11"
PACKAGES = "site"
"""Folder of the root with the wheels' content."""
PROCESSORS: Mapping[str | None, str] = {"neoverse-n1": "neoverse-n1", "generic": "cortex-a53"}
"""LLVM's name of a processor → QEMU's: code that asks for more than the target has is then killed."""
ANSWER_S = 900.0
"""Longest wait for an answer, in seconds: emulation is 20 to 100 times slower than the processor."""


def rehearse_aarch64(bundle: Bundle) -> Rehearsal | Unsupported:
    """Run an artifact for AArch64 under QEMU, in the root that `RUNG_AARCH64_ROOT` names.

    Raises:
        LoadError: It does not run there.
    """
    target = find_target(bundle.manifest.target)
    if target.kind != "cpu" or target.architecture != "aarch64":
        return Unsupported("not_upstream", f"nothing on another machine runs code for `{target.name}`")
    emulator = next((found for name in EMULATORS if (found := shutil.which(name))), None)
    if emulator is None:
        return Unsupported("not_implemented", "no `qemu-aarch64-static` here: install qemu-user-static")
    root = os.environ.get(ROOT_VARIABLE)
    if not root or not (Path(root) / PYTHON).exists():
        return Unsupported(
            "not_implemented",
            f"`{ROOT_VARIABLE}` names no AArch64 root; "
            "`python -m compilers.aarch64_emulation.root FOLDER` makes one",
        )
    processor = processor_of(target, emulator=emulator)
    session = EmulatedSession(bundle, emulator=emulator, processor=processor, root=Path(root))
    means = f"qemu-aarch64 {emulator_version(emulator)} ({processor})"
    return Rehearsal(session=session, means=means, runtime_version=session.runtime_version)


@functools.cache
def emulator_version(emulator: str) -> str:
    """Version of QEMU."""
    done = subprocess.run([emulator, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+(?:\.\d+)+)", done.stdout)
    return found[1] if found else "of unknown version"


def processor_of(target: Target, *, emulator: str) -> str:
    """The processor to emulate: the target's own, or `max` where QEMU does not know it."""
    done = subprocess.run([emulator, "-cpu", "help"], capture_output=True, text=True, check=False)
    wanted = PROCESSORS.get(target.llvm_cpu, "max")
    return wanted if wanted in done.stdout.split() else "max"


class EmulatedCache:
    """A `Cache` (compilers/runtime.py) that lies in the emulated process."""

    def __init__(self, session: EmulatedSession, number: int, *, rows: int, capacity: int) -> None:
        self.session = session
        self.number = number
        self.rows = rows
        self.capacity = capacity
        self.lengths = [0] * rows

    def length(self, row: int) -> int:
        """Tokens that a row holds."""
        return self.lengths[row]

    def truncate(self, row: int, *, length: int) -> None:
        """Forget a row's tokens from `length` on."""
        self.session.ask({"do": "truncate", "row": row, "length": length}, self)

    def copy(self, *, source: int, row: int, length: int) -> None:
        """Make `row` hold the first `length` tokens of row `source`."""
        self.session.ask({"do": "copy", "source": source, "row": row, "length": length}, self)


class EmulatedSession:
    """A `Session` (compilers/runtime.py) over an emulated process, which lives as long as it does."""

    def __init__(self, bundle: Bundle, *, emulator: str, processor: str, root: Path) -> None:
        self._name = str(bundle.path)
        self._dropped: list[int] = []
        self._folder = tempfile.TemporaryDirectory(prefix="rung-emulate-")
        self._log = Path(self._folder.name) / "log"
        self._process = _start(
            bundle, Path(self._folder.name), log=self._log, emulator=emulator, processor=processor, root=root
        )
        self._end = weakref.finalize(self, _stop, self._process, self._folder)
        ready = self._answer().body
        self.vocab_size = int(ready["vocab_size"])
        self.max_context = int(ready["max_context"])
        self.runtime_version = str(ready["runtime_version"])

    def new_cache(self, *, rows: int, capacity: int) -> EmulatedCache:
        """An empty cache of `rows` rows of at most `capacity` tokens each.

        Raises:
            LoadError: The sizes are not positive, or the model has fewer positions.
        """
        check_cache_size(rows=rows, capacity=capacity, max_context=self.max_context)
        made = self.ask({"do": "new_cache", "rows": rows, "capacity": capacity})
        cache = EmulatedCache(self, int(made.body["cache"]), rows=rows, capacity=capacity)
        weakref.finalize(cache, self._dropped.append, cache.number)
        return cache

    def forward(self, cache: Cache, segments: Sequence[Segment]) -> list[FloatArray]:
        """Append each segment to its row and return its logits.

        Raises:
            LoadError: A row would exceed the cache's capacity, a segment is wrong, or the process died.
        """
        if not isinstance(cache, EmulatedCache) or cache.session is not self:
            raise LoadError(
                "the cache was not made by this session", hint="use the session's own `new_cache`"
            )
        check_segments(cache, segments, vocab_size=self.vocab_size)
        said = [[s.row, [int(token) for token in s.tokens], s.logits] for s in segments]
        return list(self.ask({"do": "forward", "segments": said}, cache).arrays)

    def close(self) -> None:
        """End the emulated process."""
        self._end()

    def ask(self, body: Mapping[str, Any], cache: EmulatedCache | None = None) -> WireMessage:
        """Have something done over there.

        Raises:
            LoadError: It was refused there, or the process died or hangs.
        """
        drop, self._dropped[:] = list(self._dropped), []
        named = {} if cache is None else {"cache": cache.number}
        with contextlib.suppress(OSError):  # it is gone: reading the answer says how
            write_message(cast("BinaryIO", self._process.stdin), {**body, **named, "drop": drop})
        answer = self._answer()
        if cache is not None:
            cache.lengths = [int(length) for length in answer.body["lengths"]]
        return answer

    def _answer(self) -> WireMessage:
        stream = cast("BinaryIO", self._process.stdout)
        try:
            ready, _, _ = select.select([stream], [], [], ANSWER_S)
            if not ready:
                self._process.kill()
                raise LoadError(
                    f"`{self._name}` did not answer under emulation for {ANSWER_S:.0f} s", hint="see its log"
                )
            message = read_message(stream)
        except (EOFError, OSError, ValueError, KeyError) as error:
            raise LoadError(
                f"`{self._name}` died under emulation: {self._last_words()}",
                hint="the artifact, or the emulated root, is damaged; build it again",
            ) from error
        if "error" in message.body:
            said = message.body["error"]
            raise LoadError(f"under emulation: {said['message']}", hint=said["hint"])
        return message

    def _last_words(self) -> str:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"exit {code}" + (f", {' / '.join(lines[-3:])}" if lines else "")


def _start(
    bundle: Bundle, folder: Path, *, log: Path, emulator: str, processor: str, root: Path
) -> subprocess.Popen[bytes]:
    """Start the emulated process; `folder` is its own."""
    manifest = folder / MANIFEST_NAME
    manifest.write_text(bundle.manifest.model_dump_json(), encoding="utf-8")
    environment = {
        "PATH": "/usr/bin",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join([str(_source(root.resolve(), folder)), str(root.resolve() / PACKAGES)]),
        "PYTHONPYCACHEPREFIX": str(root.resolve() / "pycache"),
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [emulator, "-cpu", processor, "-L", str(root.resolve()), str(root.resolve() / PYTHON), "-m"]
    try:
        with log.open("wb") as complaints:
            return subprocess.Popen(
                [*command, "compilers.aarch64_emulation.serve", str(bundle.path.resolve()), str(manifest)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=environment,
                cwd=folder,
            )
    except OSError as error:
        raise LoadError(
            f"cannot start `{emulator}`: {error}", hint="install qemu-user-static again"
        ) from error


def _source(root: Path, folder: Path) -> Path:
    """A folder with this program's packages alone: beside them may lie packages for this machine.

    It lies in the root, where its name stays the same and byte code is kept, unless that cannot be written.
    """
    places = {p.__name__: Path(cast("str", p.__file__)).resolve().parent for p in (compilers, registry)}
    shelf = root / "source" / short(digest_value({name: str(place) for name, place in places.items()}))
    try:
        shelf.mkdir(parents=True, exist_ok=True)
    except OSError:
        shelf = folder
    for name, place in places.items():
        with contextlib.suppress(FileExistsError):
            (shelf / name).symlink_to(place)
    return shelf


def _stop(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except OSError:
                continue
    process.wait()
    folder.cleanup()
