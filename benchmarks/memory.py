"""`python -m benchmarks.memory BUNDLE…`: what serving takes, against what the manifest's figures promise.

For each bundle and number of callers a process of its own loads the bundle as `rung serve` does, answers that
many callers at once, each with a prompt and an answer of the given length together, and tells its peak of
resident memory (`VmHWM`). The figure beside it is the one that `rung resolve --callers --tokens` gives.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.child import ROOT, child_environment
from compilers.backend import find_runtime
from compilers.model.tokenizer import Tokenizer
from compilers.runtime import Bundle
from registry.artifact import MANIFEST_NAME, Manifest
from serving.engine.engine import Engine, Limits
from serving.engine.sampling import Sampling
from serving.engine.sequence import Event, Generation, GenerationFailure
from serving.node.host import this_host

CALLERS = (1, 8, 16)
ANSWER_TOKENS = 192
"""So many that the first caller still writes when the last one's prompt has been read."""
MOST_OFF = 0.15


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 if every figure is within 15 % of what was measured, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--callers", type=int, nargs="+", default=CALLERS)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(_serve(options.bundles[0], options.callers[0], options.tokens, options.threads)))
        return 0
    held = True
    for bundle in options.bundles:
        for callers in options.callers:
            sizes = [f"--callers={callers}", f"--tokens={options.tokens}", f"--threads={options.threads}"]
            command = [sys.executable, "-m", "benchmarks.memory", str(bundle.resolve()), *sizes, "--child"]
            done = subprocess.run(
                command, cwd=ROOT, env=child_environment(), check=True, stdout=subprocess.PIPE
            )
            found = json.loads(done.stdout.splitlines()[-1])
            ratio = found["planned"] / found["peak"]
            held = held and abs(ratio - 1) <= MOST_OFF
            print(
                f"{bundle.name}: {callers} × {options.tokens} tokens: "
                f"loaded {found['loaded'] / 1e6:,.0f} MB, "
                f"peak {found['peak'] / 1e6:,.0f} MB, afterwards {found['after'] / 1e6:,.0f} MB, "
                f"planned {found['planned'] / 1e6:,.0f} MB, ratio {ratio:.2f}",
                flush=True,
            )
    return 0 if held else 1


def _serve(path: Path, callers: int, tokens: int, threads: int) -> dict[str, int]:
    import serving.http.server  # noqa: F401  the server's own modules are part of its memory

    manifest = Manifest.read_json(path / MANIFEST_NAME)
    session = find_runtime(manifest.format, where=str(path)).load(
        Bundle(manifest=manifest, path=path), this_host(), threads=threads
    )
    facts = manifest.facts
    tokenizer = Tokenizer.from_directory(path, add_bos=facts.add_bos, eos_token_ids=facts.eos_token_ids)
    limits = Limits(slots=callers, capacity=facts.max_context, kept=callers, kept_tokens=manifest.kept_tokens)
    engine = Engine(session, tokenizer, limits=limits)
    loaded = _status("VmRSS")
    random = np.random.default_rng(0)
    left, done = threading.Semaphore(0), callers

    def emit(_: int, event: Event) -> None:
        if isinstance(event, GenerationFailure):
            raise event.error
        if event.finish is not None:
            left.release()

    engine.submit(
        [
            Generation(
                prompt=tuple(random.integers(20, facts.vocab_size - 1000, tokens - ANSWER_TOKENS).tolist()),
                max_tokens=ANSWER_TOKENS,
                ignore_eos=True,
                sampling=Sampling(temperature=0.0),
            )
            for _ in range(callers)
        ],
        emit=emit,
    )
    for _ in range(done):
        left.acquire()
    engine.close()
    return {
        "loaded": loaded,
        "peak": _status("VmHWM"),
        "after": _status("VmRSS"),
        "planned": manifest.serving_memory_bytes(callers=callers, tokens=tokens),
    }


def _status(name: str) -> int:
    """A figure of this process in bytes, from the kernel."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    sys.exit(main())
