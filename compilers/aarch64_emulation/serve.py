"""The emulated side: loads a bundle with its own runtime and answers a proxy over its standard streams.

Started by `session.py` as `python -m compilers.aarch64_emulation.serve BUNDLE MANIFEST`, with the
root's Python under QEMU.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from compilers.aarch64_emulation.wire import read_message, write_message
from compilers.backend import find_runtime
from compilers.runtime import Bundle, Cache, FloatArray, Segment, Session
from registry.artifact import Manifest
from registry.errors import LoadError, RungError
from registry.host import Host

AT_HWCAP, AT_HWCAP2 = 16, 26
# Bits of the two words (linux/arch/arm64/include/uapi/asm/hwcap.h) that a target may ask for.
HWCAP = {
    "asimd": 1, "aes": 3, "pmull": 4, "sha1": 5, "sha2": 6, "crc32": 7, "atomics": 8, "fphp": 9,
    "asimdhp": 10, "asimdrdm": 12, "jscvt": 13, "fcma": 14, "lrcpc": 15, "sha3": 17, "asimddp": 20,
    "sha512": 21, "sve": 22, "asimdfhm": 23, "flagm": 27,
}  # fmt: skip
HWCAP2 = {
    "sve2": 1, "sveaes": 2, "svepmull": 3, "svebitperm": 4, "svesha3": 5, "flagm2": 7, "frint": 8,
    "svei8mm": 9, "svebf16": 12, "i8mm": 13, "bf16": 14,
}  # fmt: skip


def main() -> None:
    """Serve until the input ends."""
    # What libraries print must not come between messages.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = sys.stdin.buffer
    try:
        bundle = Bundle(Manifest.read_json(Path(sys.argv[2])), Path(sys.argv[1]))
        runtime = find_runtime(bundle.manifest.format)
        session = runtime.load(bundle, _host(), threads=1)
    except RungError as error:
        write_message(answers, {"error": error.to_json()})
        return
    ready = {
        "vocab_size": session.vocab_size,
        "max_context": session.max_context,
        "runtime_version": runtime.version(),
    }
    write_message(answers, ready)
    _serve(_Desk(session), questions, answers)


class _Desk:
    """The session and its caches, by number."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.caches: dict[int, Cache] = {}
        self.next = 0

    def answer(self, asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[FloatArray]]:
        """Do what is asked."""
        for number in asked["drop"]:
            self.caches.pop(number, None)
        if asked["do"] == "new_cache":
            self.next += 1
            self.caches[self.next] = self.session.new_cache(rows=asked["rows"], capacity=asked["capacity"])
            return {"cache": self.next}, []
        cache = self.caches[asked["cache"]]
        found: list[FloatArray] = []
        match asked["do"]:
            case "forward":
                found = self.session.forward(cache, [Segment(*segment) for segment in asked["segments"]])
            case "truncate":
                cache.truncate(asked["row"], length=asked["length"])
            case "copy":
                cache.copy(source=asked["source"], row=asked["row"], length=asked["length"])
        return {"lengths": [cache.length(row) for row in range(cache.rows)]}, found


def _serve(desk: _Desk, questions: BinaryIO, answers: BinaryIO) -> None:
    while True:
        try:
            asked = read_message(questions)
        except EOFError:
            return
        try:
            body, arrays = desk.answer(asked.body)
        except RungError as error:
            write_message(answers, {"error": error.to_json()})
        else:
            write_message(answers, body, arrays)


def _host() -> Host:
    """The emulated processor, by the words that the kernel gives a process: /proc tells of the real one."""
    read = ctypes.CDLL(None).getauxval
    read.restype, read.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    features = {name for name, bit in HWCAP.items() if read(AT_HWCAP) >> bit & 1}
    features |= {name for name, bit in HWCAP2.items() if read(AT_HWCAP2) >> bit & 1}
    if os.uname().machine != "aarch64":
        raise LoadError(f"this is {os.uname().machine}, not aarch64", hint="check RUNG_AARCH64_ROOT")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Host(architecture="aarch64", features=tuple(sorted(features)), memory_bytes=memory, cores=1)


if __name__ == "__main__":
    main()
