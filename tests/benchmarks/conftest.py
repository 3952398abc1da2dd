from __future__ import annotations

import pytest

from benchmarks.build import build_all
from benchmarks.checkpoint import make_checkpoint
from tests.benchmarks.tiny import SHAPE, STEPS, Built


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    cache = tmp_path_factory.mktemp("benchmark")
    facts = make_checkpoint(cache / "checkpoint", shape=SHAPE)
    records = build_all(STEPS, checkpoint=cache / "checkpoint", facts=facts, cache=cache)
    return Built(cache=cache, checkpoint=cache / "checkpoint", facts=facts, records=records)
