"""lm-eval's own `local-completions` client against the server gives what its `hf` backend gives."""

import os

import pytest

from serving.engine.engine import Limits
from serving.node.host import this_host
from serving.node.load import load_bundle
from tests.serving.support import running

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytestmark = pytest.mark.slow

CONTEXTS = ["the quick brown", "call the tool with", "one two three four", '{"name": "search",', "naïve café"]
CONTINUATIONS = [" fox jumps", " name", " five six", " seven", "—", ' "arguments"']


def requests(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


@pytest.fixture(scope="module")
def reference(checkpoint):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(checkpoint), device="cpu", dtype="float32", batch_size=4, add_bos_token=True)


@pytest.fixture(scope="module")
def client(bundle, checkpoint):
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    model = load_bundle(bundle, host=this_host())
    limits = Limits(slots=4, capacity=model.limits.capacity, kept=2)
    session = model.session
    with running(session, model.tokenizer, limits=limits) as (url, _):
        yield LocalCompletionsAPI(
            base_url=f"{url}/v1/completions",
            model="tiny",
            tokenizer=str(checkpoint),
            tokenizer_backend="huggingface",
            add_bos_token=True,
            max_length=model.limits.capacity,
            batch_size=4,
            num_concurrent=2,
        )


def test_log_likelihoods_and_greedy_flags_are_those_of_the_hf_backend(client, reference):
    asked = requests("loglikelihood", [(c, k) for c in CONTEXTS for k in CONTINUATIONS])
    asked += requests("loglikelihood", [(c, greedy_text(reference, c)) for c in CONTEXTS])
    ours, theirs = (
        client.loglikelihood(asked, disable_tqdm=True),
        reference.loglikelihood(asked, disable_tqdm=True),
    )
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert any(greedy for _, greedy in ours)
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-3)


def test_generations_are_those_of_the_hf_backend(client, reference):
    how = {"until": ["e", "zzz"], "max_gen_toks": 24, "do_sample": False, "temperature": 0.0}
    free = {"until": ["zzz"], "max_gen_toks": 24, "do_sample": False, "temperature": 0.0}
    asked = requests("generate_until", [(c, dict(h)) for c in CONTEXTS for h in (how, free)])
    again = requests("generate_until", [(c, dict(h)) for c in CONTEXTS for h in (how, free)])
    ours = client.generate_until(asked, disable_tqdm=True)
    theirs = reference.generate_until(again, disable_tqdm=True)
    assert ours == theirs
    assert all(ours)


def greedy_text(reference, context):
    """A continuation that is greedy by construction: the likeliest next token that survives the tokenizer."""
    import torch

    tokens = reference.tok_encode(context)
    with torch.inference_mode():
        best = reference.model(torch.tensor([tokens])).logits[0, -1].argsort(descending=True)
    for token in best.tolist():
        text = reference.tokenizer.decode([token])
        if "�" not in text and text.strip() and reference.tok_encode(context + text) == [*tokens, token]:
            return text
    raise AssertionError("no token survives")
