"""`rung reload` of a real server that is asked all the time, and every reason to keep the old release."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from compilers.backend import find_runtime
from matrices.chips.memory import usable_memory_bytes
from matrices.releases.files import write_release
from matrices.releases.revocations import Revocation, write_revocations
from pipeline.cli.main import run
from registry.artifact import Manifest
from registry.digest import canonical_json
from registry.signing import generate_keys
from registry.store import Store
from registry.target import find_target
from serving.node.host import this_host
from tests.serving.support import make_bundle, make_cell, make_checkpoint, make_release

ROOT = Path(__file__).parents[3]
TIERS = {"tool-calling": 1, "reasoning": 1}
PROMPTS = ("the quick brown", "one two", "call the tool", "naïve café")
PATIENCE_S = 120


@dataclass
class Publisher:
    """A source of releases, each of one artifact."""

    root: Path
    rung: Callable[..., "Ran"]
    manifests: dict[str, Manifest] = field(default_factory=dict)

    def __post_init__(self):
        generate_keys(self.root / "key", self.root / "key.pub")

    def publish(self, name, bundle, *, version, memory_bytes=None):
        store = Store.create(self.root / "store")
        manifest = Manifest.read_json(bundle / "manifest.json")
        if memory_bytes is not None:
            manifest = manifest.model_copy(update={"memory_bytes": memory_bytes})
        for entry in manifest.files:
            store.add_file(bundle / entry.path)
        store.put_artifact(manifest)
        found = find_runtime(manifest.format).version()
        cell = make_cell(manifest, tiers=TIERS, runtime=manifest.format, runtime_version=found)
        later = datetime.now(UTC) + timedelta(days=30)
        release = make_release(cell, name=name).model_copy(update={"version": version, "expires_at": later})
        write_release(release, directory=self.root / "releases" / name, private_key=self.root / "key")
        self.manifests[name] = manifest

    def revoke(self, name):
        one = self.manifests[name]
        revoked = Revocation(artifact=one.digest, cell="cell", why="wrong answers", at=datetime.now(UTC))
        keys = {"private_key": self.root / "key", "public_key": self.root / "key.pub"}
        write_revocations((revoked,), path=self.root / "revocations.json", **keys)

    def pull(self, name, node, *more):
        return self.rung(
            "pull", name, "--from", self.root, "--key", self.root / "key.pub", "--out", node, *more
        )


@dataclass(frozen=True)
class Ran:
    """What a command said."""

    code: int
    out: str
    err: str


@pytest.fixture
def rung(capsys, monkeypatch):
    """Runs a command line in this process."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", sys.argv)  # `run` sets it
        capsys.readouterr()
        code = run([str(one) for one in arguments])
        return Ran(code, *capsys.readouterr())

    return command


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Two artifacts of different checkpoints, one per toolchain."""
    root = tmp_path_factory.mktemp("bundles")
    return [
        make_bundle(make_checkpoint(root / f"checkpoint-{seed}", seed=seed), root / str(seed), toolchain=tool)
        for seed, tool in enumerate(("onnxruntime", "tvm"))
    ]


@pytest.fixture
def publisher(tmp_path, rung):
    (tmp_path / "source").mkdir()
    return Publisher(tmp_path / "source", rung)


@pytest.fixture
def node(tmp_path):
    return tmp_path / "node"


class Server:
    """`rung serve --node` in a process."""

    def __init__(self, node, *options):
        command = [
            sys.executable,
            "-m",
            "pipeline.cli.main",
            "serve",
            "--node",
            str(node),
            "--port",
            "0",
            *options,
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        self.log = []
        self.url = ""
        ready = threading.Event()

        def read():
            for line in self.process.stderr:
                self.log.append(line)
                if line.startswith("ready: "):
                    self.url = line.removeprefix("ready: ").strip()
                    ready.set()
            ready.set()

        self.reading = threading.Thread(target=read, daemon=True)
        self.reading.start()
        assert ready.wait(PATIENCE_S)
        assert self.url, "".join(self.log)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.reading.join(PATIENCE_S)
        self.process.stderr.close()

    def artifact(self):
        return httpx.get(f"{self.url}/models").json()["data"][0]["rung"]["artifact"]

    def status(self):
        return httpx.get(f"{self.url}/models").json()["data"][0]["rung"]["reload"]


@pytest.fixture
def started():
    """Starts servers, and ends them with the test."""
    servers = []

    def start(*arguments):
        servers.append(Server(*arguments))
        return servers[-1]

    yield start
    for one in servers:
        one.kill()


def ask(client, url, prompt, *, stream):
    """(artifact of the headers, fingerprints, text) of one answer."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    if not stream:
        answer = client.post(f"{url}/completions", json=body)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        text = found["choices"][0]["text"]
        return answer.headers["x-rung-artifact"], {found["system_fingerprint"]}, text
    with client.stream("POST", f"{url}/completions", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        lines = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    text = "".join(event["choices"][0]["text"] for event in events)
    return answer.headers["x-rung-artifact"], {one["system_fingerprint"] for one in events}, text


def test_no_answer_is_lost_or_mixed_while_a_server_changes_its_release(
    publisher, node, bundles, started, rung
):
    for version, bundle in enumerate(bundles, 1):
        publisher.publish(f"r{version}", bundle, version=version)
    assert publisher.pull("r1", node).code == 0
    server = started(node)
    stop = threading.Event()

    def load(number):
        answers = []
        with httpx.Client(timeout=PATIENCE_S) as client:
            while not stop.is_set():
                prompt = PROMPTS[len(answers) % len(PROMPTS)]
                answers.append((prompt, *ask(client, server.url, prompt, stream=number % 2 == 0)))
        return answers

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(load, number) for number in range(4)]
        try:
            for name in ("r2", "r1"):
                pulled = publisher.pull(name, node, *(["--allow-older"] if name == "r1" else []))
                assert pulled.code == 0, pulled.err
                done = rung("reload", "--node", node)
                assert done.code == 0, done.err
                assert f"release {name}" in done.out
                assert server.artifact() == publisher.manifests[name].digest
        finally:
            stop.set()
        answers = [one for each in asking for one in each.result()]
    by_artifact = Counter(artifact for _, artifact, _, _ in answers)
    assert set(by_artifact) == {one.digest for one in publisher.manifests.values()}
    texts: dict[tuple[str, str], set[str]] = {}
    for prompt, artifact, fingerprints, text in answers:
        assert fingerprints == {f"rung-{artifact.removeprefix('sha256:')[:12]}"}
        texts.setdefault((artifact, prompt), set()).add(text)
    assert {len(found) for found in texts.values()} == {1}, "each artifact gives each prompt one answer"
    assert len({min(found) for found in texts.values()}) == 2 * len(PROMPTS), "the artifacts differ"
    server.stop()
    assert not list((node / "servers").iterdir())


def test_each_failing_release_leaves_the_old_one_serving_with_its_reason(
    publisher, node, bundles, started, rung
):
    first, second = bundles
    publisher.publish("r1", first, version=1)
    assert publisher.pull("r1", node).code == 0
    server = started(node)
    serving = publisher.manifests["r1"].digest

    def refused(code, exit_code, words):
        done = rung("reload", "--node", node)
        assert done.code == exit_code, done.out + done.err
        status = server.status()
        assert (status["outcome"], status["error"]["code"]) == ("refused", code)
        assert words in status["error"]["message"]
        assert words in done.out
        assert any(words in line for line in server.log)
        assert server.artifact() == serving
        with httpx.Client(timeout=PATIENCE_S) as client:
            assert ask(client, server.url, PROMPTS[0], stream=False)[0] == serving

    # Not on this machine beside what serves, though it would fit alone.
    usable = usable_memory_bytes(find_target("cpu-x86-64-v3", where="here"), this_host())
    publisher.publish("r2", second, version=2, memory_bytes=usable - (1 << 20))
    assert publisher.pull("r2", node).code == 0
    refused("load", 7, "which is still serving")

    publisher.publish("r3", second, version=3)
    assert publisher.pull("r3", node).code == 0
    signature = node / "releases/r3/release.sig"
    signed = signature.read_bytes()
    signature.write_bytes(signed.replace(b"a", b"b"))
    refused("signature", 8, "sig")
    signature.write_bytes(signed)

    artifact = node / "bundles" / publisher.manifests["r3"].digest.removeprefix("sha256:")
    weights = artifact / "weights.safetensors"
    sound = weights.read_bytes()
    weights.unlink()  # it may be a link into the store
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    refused("corrupt", 3, "weights.safetensors")
    weights.write_bytes(sound)

    memory = node / "memory.json"
    remembered = memory.read_bytes()
    newer = json.loads(remembered)
    newer["current"] = None
    newer["families"]["tiny-family"] |= {
        "release": "r9", "version": 9, "digest": f"sha256:{'0' * 64}",
    }  # fmt: skip
    memory.write_bytes(canonical_json(newer))
    refused("refused", 8, "this node has had `r9` of 9")
    memory.write_bytes(remembered)

    publisher.revoke("r3")
    assert publisher.pull("r3", node).code == 8, "the pull brings the list"
    refused("refused", 8, "wrong answers")

    publisher.publish("r4", first, version=4)
    assert publisher.pull("r4", node).code == 0
    done = rung("reload", "--node", node, "--json")
    assert done.code == 0, done.err
    [told] = json.loads(done.out)
    assert (told["release"], told["reload"]["outcome"], told["artifact"]) == ("r4", "done", serving)
    server.stop()


def test_hangups_reload_too_and_do_not_end_a_server_that_starts(publisher, node, bundles, started, rung):
    publisher.publish("r1", bundles[0], version=1)
    assert publisher.pull("r1", node).code == 0
    server = started(node, "--release", "r1")
    publisher.publish("r2", bundles[1], version=2)
    os.kill(server.process.pid, signal.SIGHUP)
    done = rung("reload", "--node", node, "--status")
    assert done.code == 0
    assert f"process {server.process.pid}" in done.out
    assert rung("reload", "--node", node, "--json").code == 0
    assert server.status()["outcome"] == "unchanged", "it was started with `--release r1`"
    server.process.kill()
    server.process.wait()
    done = rung("reload", "--node", node)
    assert done.code == 3
    assert "no server runs here" in done.err
    assert not list((node / "servers").iterdir()), "what it left behind is removed"
