"""A full disk in the middle of a build: a clear end, nothing half-written, and the same command goes on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import LADDER, Place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_build_on_a_full_disk_stops_and_goes_on(small_disk: Path, checkpoint: Path) -> None:
    place = Place(small_disk / "work")
    place.root.mkdir()
    place.must("init", ".")
    place.must("checkpoint", "add", str(checkpoint), "--name", "tiny-a", "--family", "tiny")
    place.write_ladder(LADDER.replace('"onnxruntime", "tvm"', '"onnxruntime"'))
    place.must("matrix", "show")
    filler = small_disk / "filler"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    filler.write_bytes(b"\0" * (free - 150_000))
    full = place.rung("build", "ladder.toml")
    assert full.code == 3, full.err
    assert "space" in full.err
    assert "hint: " in full.err
    assert "Traceback" not in full.err
    filler.unlink()
    place.must("build", "ladder.toml")
    assert json.loads(place.must("doctor", "--json").out)["findings"] == []
