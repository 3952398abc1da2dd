import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from registry.errors import ConfigurationError
from serving.http.server import Address, open_socket

ROOT = Path(__file__).parents[3]
CODE = """
import sys
from serving.http.service import create_service
from serving.node.host import this_host
from serving.node.load import load_bundle
from serving.node.open import make_node
from serving.http.server import open_socket, serve
from pathlib import Path
listening = open_socket(host="127.0.0.1", port=0)
model = load_bundle(Path(sys.argv[1]), host=this_host())
serve(create_service(make_node(model)), listening, grace_s=20)
heavy = {"torch", "mlflow", "lm_eval", "sqlmodel", "transformers", "onnx", "tvm"} & set(sys.modules)
print("ended", sorted(heavy))
"""


@pytest.fixture
def process(bundle):
    started = subprocess.Popen(
        [sys.executable, "-c", CODE, str(bundle)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with started:
        yield started
        started.kill()


def ready(process):
    line = process.stderr.readline()
    assert line.startswith("ready: http://127.0.0.1:"), line + process.stderr.read()
    return line.removeprefix("ready: ").strip()


def test_a_real_artifact_is_served_without_any_build_library(process):
    url = ready(process)
    body = {"model": "tiny", "prompt": "the quick brown", "max_tokens": 5, "temperature": 0}
    answer = httpx.post(f"{url}/completions", json=body, timeout=30)
    assert answer.status_code == 200
    assert answer.headers["x-rung-tier"] == "none"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    assert out == "ended []\n"
    assert process.returncode == 0


def test_sigterm_lets_running_requests_end(process):
    url = ready(process)
    body = {"model": "tiny", "prompt": "x", "max_tokens": 250, "ignore_eos": True, "stream": True}
    got = []

    def ask():
        with httpx.stream("POST", f"{url}/completions", json=body, timeout=60) as answer:
            for line in answer.iter_lines():
                got.append(line)
                if len(got) == 3:
                    begun.set()

    begun = threading.Event()
    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(30)
    process.send_signal(signal.SIGTERM)
    asking.join(60)
    events = [line.removeprefix("data: ") for line in got if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length", "all 250 tokens came"
    assert process.wait(30) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/models")


def test_a_port_in_use_is_told_with_the_remedy():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} on `127.0.0.1` is in use") as caught:
            open_socket(host="127.0.0.1", port=port)
    assert caught.value.exit_code == 2
    assert "--port" in caught.value.hint


def test_addresses_that_cannot_be_had_are_told():
    with pytest.raises(ConfigurationError, match="port 70000"):
        open_socket(host="127.0.0.1", port=70000)
    with pytest.raises(ConfigurationError, match="203"):
        open_socket(host="203.0.113.7", port=0)
    with pytest.raises(ConfigurationError, match=r"no\.such\.host\.invalid"):
        open_socket(host="no.such.host.invalid", port=0)
    if os.geteuid() == 0:
        open_socket(host="127.0.0.1", port=0).close()
    assert Address("::1", 80).url == "http://[::1]:80"
