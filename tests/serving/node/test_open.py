"""A node from an empty directory to an answer, with `serving` alone."""

import json
import subprocess
import sys
from pathlib import Path

from compilers.backend import find_runtime
from matrices.releases.files import write_release
from registry.artifact import MANIFEST_NAME, Manifest
from registry.signing import generate_keys
from registry.store import Store
from serving.node.choose import find_released
from tests.serving.support import make_cell, make_release

ROOT = Path(__file__).parents[3]
CODE = """
import json, sys, threading, urllib.request
from pathlib import Path
from serving.http.server import open_socket, serve
from serving.http.service import create_service
from serving.node.choose import Wanted, choose
from serving.node.directory import NodeDirectory
from serving.node.host import this_host
from serving.node.open import open_node
from serving.node.pull import pull_wanted
from serving.node.source import find_source

source, key, node = sys.argv[1], Path(sys.argv[2]), NodeDirectory(Path(sys.argv[3]))
wanted = Wanted(tasks=("tool-calling",), min_tier=1)
pull_wanted(
    "r1", source=find_source(source), public_key=key, into=node, wanted=wanted, host=this_host()
)
opened = open_node(choose(node, wanted, region="eu"))
listening, ready, stop = open_socket(host="127.0.0.1", port=0), threading.Event(), threading.Event()
url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1/completions"
server = threading.Thread(
    target=serve, args=(create_service(opened), listening),
    kwargs={"on_ready": lambda _: ready.set(), "stop": stop, "grace_s": 5.0},
)
server.start()
ready.wait(60)
body = json.dumps({"model": "tiny", "prompt": "one two", "max_tokens": 3, "ignore_eos": True}).encode()
request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
with urllib.request.urlopen(request, timeout=60) as answer:
    usage, headers = json.load(answer)["usage"], dict(answer.headers)
stop.set()
server.join(60)
print(json.dumps({"usage": usage, "headers": headers, "modules": sorted(sys.modules)}))
"""
FOREIGN = (
    "pipeline", "matrices.ledger", "sqlalchemy", "sqlmodel", "alembic", "mlflow", "torch", "transformers",
    "lm_eval",
)  # fmt: skip


def test_serving_opens_and_serves_a_node_without_pipeline_or_database(bundle, tmp_path):
    source = tmp_path / "source"
    store = Store.create(source / "store")
    manifest = Manifest.read_json(bundle / MANIFEST_NAME)
    for entry in manifest.files:
        store.add_file(bundle / entry.path)
    store.put_artifact(manifest)
    version = find_runtime("onnxruntime").version()
    cell = make_cell(manifest, tiers={"tool-calling": 1, "reasoning": None}, runtime_version=version)
    generate_keys(tmp_path / "key", tmp_path / "key.pub")
    release = make_release(cell)
    write_release(release, directory=source / "releases" / "r1", private_key=tmp_path / "key")
    assert find_released(release, cell.cell.id) == cell

    arguments = [str(source), str(tmp_path / "key.pub"), str(tmp_path / "node")]
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["usage"]["completion_tokens"] == 3
    headers = {name.lower(): value for name, value in found["headers"].items()}
    assert (headers["x-rung-tier"], headers["x-rung-region"]) == ("1", "eu")
    assert headers["x-rung-artifact"] == manifest.digest
    foreign = tuple(each + "." for each in FOREIGN)
    assert [name for name in found["modules"] if f"{name}.".startswith(foreign)] == []
