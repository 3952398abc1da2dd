"""Files changed at random, through every reader: a documented error or an accepted value, nothing else."""

from __future__ import annotations

import collections
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compilers.model.tokenizer import Tokenizer
from matrices.releases.files import read_release
from matrices.releases.release import Release
from registry.artifact import Manifest
from registry.errors import RungError
from registry.intake import read_checkpoint
from registry.ladder import read_ladder
from registry.store import Store
from registry.upkeep import verify
from registry.workspace import find_workspace
from serving.node.host import read_host, this_host

FAMILY = Path(__file__).parents[2] / "pipeline/demo/family/small"
WORDS = [
    b"null", b"-1", b"1e999", b"NaN", b"9" * 400, b"9" * 5000, b'"\\ud800"', b"[]", b"{}", b"[" * 100_000,
    b'{"a":' * 3000, b"\x00", b"\xff\xfe", b'"../../x"', b'"\\u0000"',
]  # fmt: skip
VALUES = [
    None,
    True,
    -1,
    2**63,
    10**30,
    1.5,
    1e308,
    "",
    "\x00",
    "../../x",
    "💥",
    "a" * 3000,
    [],
    {},
    [[]],
    [None],
]


def mutate_files(demo: Path, *, count: int, seed: int) -> dict[str, Any]:
    """Read changed files; what came of it."""
    dice = random.Random(seed)
    outcomes: collections.Counter[str] = collections.Counter()
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rung-files-") as scratch:
        cases = _cases(demo, Path(scratch))
        for number in range(count):
            name, path, original, read = cases[number % len(cases)]
            changed = _changed(original, dice)
            path.write_bytes(changed)
            try:
                read()
                outcomes["accepted"] += 1
                if name == "release" and changed != original:
                    problems.append(f"a signed release that was changed is accepted (file {number})")
            except RungError as error:
                outcomes[f"exit {error.exit_code}"] += 1
            except Exception as error:  # noqa: BLE001  finding these is the purpose
                problems.append(f"{name}: {type(error).__name__}: {str(error)[:200]} (file {number})")
            path.write_bytes(original)
    return {"files": count, "kinds": len(cases), **dict(sorted(outcomes.items())), "problems": problems}


Case = tuple[str, Path, bytes, Callable[[], object]]


def _cases(demo: Path, scratch: Path) -> list[Case]:
    state = demo / ".rung"
    checkpoint = scratch / "checkpoint"
    shutil.copytree(FAMILY, checkpoint)
    release = scratch / "release"
    shutil.copytree(state / "releases/demo-1", release)
    store = scratch / "store"
    (store / "blobs/sha256").mkdir(parents=True)
    for name in ("index.json", "oci-layout"):
        shutil.copyfile(state / "store" / name, store / name)
    for name in ("ladder.toml", "rung.toml"):
        shutil.copyfile(demo / name, scratch / name)
    document = json.loads((release / "release.json").read_bytes())
    small = scratch / "small.json"
    small.write_text(json.dumps(document | {"cells": document["cells"][:1], "others": []}))
    manifest = scratch / "manifest.json"
    manifest.write_text(json.dumps(document["cells"][0]["manifest"]))
    host = scratch / "host.json"
    host.write_text(this_host().model_dump_json())

    def tokenize() -> None:
        Tokenizer.from_directory(checkpoint, add_bos=False).encode("pay_bill from accra")

    def check_store() -> None:
        found = Store(store)
        found.artifacts()
        verify(found)

    reads: list[tuple[str, Path, Callable[[], object]]] = [
        (
            "release",
            release / "release.json",
            lambda: read_release(release, public_key=state / "keys/rung.pub"),
        ),
        ("release's JSON", small, lambda: Release.parse(small.read_bytes(), where=str(small))),
        ("manifest", manifest, lambda: Manifest.read_json(manifest)),
        ("host", host, lambda: read_host(host)),
        ("ladder", scratch / "ladder.toml", lambda: read_ladder(scratch / "ladder.toml")),
        ("settings", scratch / "rung.toml", lambda: find_workspace(scratch)),
        ("index", store / "index.json", check_store),
        ("tokenizer", checkpoint / "tokenizer.json", tokenize),
        ("tokenizer's settings", checkpoint / "tokenizer_config.json", tokenize),
        *(
            (f"checkpoint's {name}", checkpoint / name, lambda: read_checkpoint(checkpoint))
            for name in ("config.json", "tokenizer.json", "model.safetensors")
        ),
    ]
    return [(name, path, path.read_bytes(), read) for name, path, read in reads]


def _changed(data: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.5:
        try:
            return _changed_json(json.loads(data), dice)
        except ValueError:
            pass
    found = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4))):
        at = dice.randrange(max(1, min(len(found), 1 << 16)))
        match dice.randrange(4):
            case 0:
                found[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                del found[at : at + dice.randint(1, 30)]
            case 2:
                found[at:at] = dice.choice(WORDS)
            case _:
                del found[at:]
    return bytes(found)


def _changed_json(value: Any, dice: random.Random) -> bytes:
    at = value
    for _ in range(dice.randint(0, 6)):
        inner = at.values() if isinstance(at, dict) else at
        further = [one for one in inner if isinstance(one, dict | list) and one]
        if not further:
            break
        at = dice.choice(further)
    if isinstance(at, dict) and at:
        key = dice.choice([*at, "extra"])
        if dice.random() < 0.3:
            at.pop(key, None)
        else:
            at[key] = dice.choice(VALUES)
    elif at:
        at[dice.randrange(len(at))] = dice.choice(VALUES)
    return json.dumps(value).encode()
