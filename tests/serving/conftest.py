"""The tiny model of `support.py`, made once, and a server for it."""

import pytest

from compilers.model.tokenizer import Tokenizer
from tests.serving.support import TorchSession, make_bundle, make_checkpoint, running


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def session(checkpoint):
    return TorchSession(checkpoint)


@pytest.fixture(scope="session")
def tokenizer(checkpoint):
    return Tokenizer.from_directory(checkpoint, add_bos=True)


@pytest.fixture(scope="session")
def server(session, tokenizer):
    with running(session, tokenizer) as (url, service):
        yield url, service


@pytest.fixture
def client(server):
    from openai import OpenAI

    with OpenAI(base_url=f"{server[0]}/v1", api_key="none", max_retries=0, timeout=60) as one:
        yield one


@pytest.fixture(scope="session")
def bundle(checkpoint, tmp_path_factory):
    """The tiny checkpoint, lowered for onnxruntime."""
    return make_bundle(checkpoint, tmp_path_factory.mktemp("artifact"))
