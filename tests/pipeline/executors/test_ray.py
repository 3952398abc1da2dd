"""The Ray executor on a real cluster of two nodes on this machine, through the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import LADDER, Place

pytest.importorskip("ray", reason="`ray` is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL_OBJECTS = 100 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that offers no toolchain, and a node that offers `tvm`."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": SMALL_OBJECTS})
    made.add_node(num_cpus=1, object_store_memory=SMALL_OBJECTS, resources={"rung-tvm": 1})
    made.wait_for_nodes()
    yield made
    made.shutdown()


@pytest.fixture
def tiny(place: Place, checkpoint: Path) -> Place:
    place.must("checkpoint", "add", str(checkpoint), "--name", "tiny-a", "--family", "tiny")
    place.write_ladder(LADDER.replace(', "w4g32-rtn"', ""))
    return place


def states(place: Place) -> dict[str, dict[str, Any]]:
    shown = json.loads(place.must("matrix", "show", "--json").out)["cells"]
    return {cell["toolchain"]: cell for cell in shown}


def test_lowering_goes_to_the_node_that_offers_the_toolchain_and_the_rest_is_built_without_the_others(
    tiny: Place, cluster: Any
) -> None:
    ran = tiny.rung("build", "ladder.toml", "--executor", "ray", RAY_ADDRESS=cluster.address)
    found = states(tiny)
    assert found["tvm"]["state"] == "evaluated", ran.err
    assert found["onnxruntime"]["state"] == "failed"
    assert "no node of the Ray cluster offers `rung-onnxruntime`" in found["onnxruntime"]["reason"]
    assert ran.code == 5
    again = tiny.must("build", "ladder.toml")
    assert states(tiny)["onnxruntime"]["state"] == "evaluated"
    assert "nothing to build" not in again.err
    assert "nothing to build" in tiny.must("build", "ladder.toml").err


def test_a_cluster_that_is_not_there_is_an_error_with_its_remedy(tiny: Place) -> None:
    ran = tiny.rung("build", "ladder.toml", "--executor", "ray", RAY_ADDRESS="127.0.0.1:1")
    assert ran.code == 2
    assert "ray start --head" in ran.err
