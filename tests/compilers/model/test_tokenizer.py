"""The node's tokenizer against transformers' own, over several kinds of tokenizer."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compilers.model.tokenizer import Tokenizer
from registry.errors import CheckpointError, ConfigurationError

TEXTS = (
    "the red kite isn't in paris . it's at nine , see ?",
    "def f(x):\n    return x ** 2  # größer 😀 日本語\n",
    "naïve façade — “quoted” 👩‍👩‍👧 \t tabs  and   spaces",
    "<s> written </s> specials <pad>",
)
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLAIN = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(TEXTS)

NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SPECIALS = list(NAMED.values())


def word_level(directory: Path) -> None:
    """Whole words, with spaces before punctuation cleaned up."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for text in TEXTS for word in text.split()} | {"do", "n't", "'s", "'", "'ve", "."})
    vocabulary = {token: number for number, token in enumerate([*SPECIALS, *words])}
    backend = Backend(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=True, **NAMED
    ).save_pretrained(directory)


def byte_bpe(directory: Path) -> None:
    """Byte-level BPE as in GPT-2, Llama 3 and Qwen: characters fall apart into tokens."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=SPECIALS)
    )
    # A clean-up flag that transformers ignores for BPE.
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=True,
        extra_special_tokens=["<|tool|>"],
        **NAMED,
    ).save_pretrained(directory)


def llama_bpe(directory: Path) -> None:
    """BPE with byte fallback and `▁` for spaces, through transformers' Llama class."""
    from transformers import LlamaTokenizer

    pieces = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdehiknorstuvpqx.,"]
    merges = [("r", "e"), ("i", "n"), ("▁", "re"), ("k", "i"), ("t", "h"), ("th", "e"), ("▁", "the")]
    vocabulary = {token: n for n, token in enumerate([*pieces, *(a + b for a, b in merges)])}
    LlamaTokenizer(vocab=vocabulary, merges=merges, **NAMED).save_pretrained(directory)


def unigram(directory: Path) -> None:
    """A unigram model with a Metaspace pre-tokenizer, as SentencePiece makes it."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [(token, 0.0) for token in SPECIALS]
    pieces += [(piece, -len(piece)) for piece in ("▁", "▁the", "▁red", "kite", "▁in", *"abcdefghinoprstuw.,")]
    backend = Backend(models.Unigram(pieces, unk_id=SPECIALS.index("<unk>"), byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=backend, **NAMED).save_pretrained(directory)


def demo_words(directory: Path) -> None:
    """The demo family's."""
    from pipeline.demo.tokenizer import save_tokenizer

    save_tokenizer(directory)


@pytest.fixture(scope="module", params=[word_level, byte_bpe, llama_bpe, unigram, demo_words])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, Any, Path]:
    from transformers import AutoTokenizer

    directory: Path = tmp_path_factory.mktemp(request.param.__name__)
    request.param(directory)
    return (
        Tokenizer.from_directory(directory, add_bos=False),
        AutoTokenizer.from_pretrained(directory),
        directory,
    )


@given(text=PLAIN)
@QUICK
def test_encoding_is_that_of_transformers(pair: tuple[Tokenizer, Any, Path], text: str) -> None:
    ours, theirs, _ = pair
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)


@given(texts=st.lists(PLAIN, max_size=4))
@QUICK
def test_a_batch_is_encoded_as_its_texts_one_by_one(
    pair: tuple[Tokenizer, Any, Path], texts: list[str]
) -> None:
    ours = pair[0]
    assert ours.encode_batch(texts) == [ours.encode(text) for text in texts]


@given(data=st.data())
@QUICK
def test_decoding_of_any_ids_is_that_of_transformers(
    pair: tuple[Tokenizer, Any, Path], data: st.DataObject
) -> None:
    ours, theirs, _ = pair
    ids = data.draw(st.lists(st.integers(0, len(theirs) - 1), max_size=12))
    for skip in (True, False):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


@given(data=st.data())
@QUICK
def test_a_stream_gives_the_text_of_all_ids(pair: tuple[Tokenizer, Any, Path], data: st.DataObject) -> None:
    ours, theirs, _ = pair
    ids = data.draw(st.lists(st.integers(0, len(theirs) - 1), max_size=20) | PLAIN.map(ours.encode))
    stream = ours.stream()
    pieces = [stream.push(token_id) for token_id in ids]
    assert "".join([*pieces, stream.flush()]) == ours.decode(ids)


@given(text=PLAIN)
@QUICK
def test_a_stream_never_shows_half_a_character(pair: tuple[Tokenizer, Any, Path], text: str) -> None:
    ours = pair[0]
    whole = ours.decode(ours.encode(text))
    stream, shown = ours.stream(), ""
    for token_id in ours.encode(text):
        shown += stream.push(token_id)
        assert whole.startswith(shown)


def test_every_id_and_special_token_agrees(pair: tuple[Tokenizer, Any, Path]) -> None:
    ours, theirs, _ = pair
    assert ours.vocab_size == len(theirs)
    assert (ours.bos_token_id, ours.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert ours.special_tokens == theirs.special_tokens_map
    for number in range(len(theirs)):
        assert ours.token_text(number) == theirs.decode([number])


def test_bos_stands_first_when_asked_for_and_never_twice(pair: tuple[Tokenizer, Any, Path]) -> None:
    ours, _, directory = pair
    adding = Tokenizer.from_directory(directory, add_bos=True)
    bos, plain = adding.bos_token_id, ours.encode("the red")
    assert adding.encode("the red") == [bos, *plain] == ours.encode("the red", add_bos=True)
    assert adding.encode("the red", add_bos=False) == plain == ours.encode("the red")
    assert adding.encode("<s>the red").count(bos) == 1
    assert adding.encode("") == [bos]


CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hi <b>you</b> & me", "name": None},
    {"role": "assistant", "content": " sure ", "reasoning": "because"},
    {"role": "user", "content": "größer 😀"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
TEMPLATES = {
    "plain": "{% for m in messages %}{{ m.role }}: {{ m['content'] | trim }}\n{% endfor %}",
    "qwen": (
        "{%- if tools %}\n{{- '<|im_start|>system\n' }}\n"
        "{%- for tool in tools %}{{ tool | tojson }}{%- endfor %}\n"
        "{%- endif %}\n{%- set ns = namespace(found=false, last=messages|length - 1) %}\n"
        "{%- for message in messages[::-1] %}\n    {%- if message.role == 'user' and not ns.found %}\n"
        "        {%- set ns.found = true %}\n    {%- endif %}\n{%- endfor %}\n"
        "{% for message in messages %}\n    {% if loop.index0 == 3 %}{% break %}{% endif %}\n"
        "<|im_start|>{{ message.role }}\n{{ message.content }}{{ message.reasoning_content }}<|im_end|>\n"
        "{% endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n' }}\n{%- endif %}"
    ),
    "specials": "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}{{ extra }}",
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
    ),
    "json": "{{ messages | tojson(indent=2, sort_keys=true) }}{{ dict(a=1, b=[2]).items() | list }}",
    "whitespace": "{% if true %}\n    kept\n    {% endif %}\n  {# note #}\nx\n",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "options", [{}, {"tools": TOOLS}, {"extra": "more"}, {"documents": [{"title": "t"}]}]
)
@pytest.mark.parametrize("opened", [True, False])
def test_a_rendered_chat_is_that_of_transformers(
    tmp_path: Path, name: str, options: dict[str, Any], opened: bool
) -> None:
    from transformers import AutoTokenizer

    word_level(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES[name], encoding="utf-8")
    ours = Tokenizer.from_directory(tmp_path, add_bos=False)
    theirs = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        CHAT, tokenize=False, add_generation_prompt=opened, **options
    )
    assert ours.render_chat(CHAT, add_generation_prompt=opened, **options) == theirs


def test_the_last_message_can_be_left_open_as_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    word_level(tmp_path)
    for name in ("plain", "specials"):
        (tmp_path / "chat_template.jinja").write_text(TEMPLATES[name], encoding="utf-8")
        ours = Tokenizer.from_directory(tmp_path, add_bos=False).render_chat(
            CHAT, add_generation_prompt=False, continue_final_message=True
        )
        assert ours == AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
            CHAT, tokenize=False, continue_final_message=True
        )
        assert ours.endswith("größer 😀")


def test_todays_date_can_stand_in_a_template(tmp_path: Path) -> None:
    word_level(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ strftime_now('%Y') }}", encoding="utf-8")
    found = Tokenizer.from_directory(tmp_path, add_bos=False).render_chat(CHAT)
    assert int(found) in (datetime.now().year, datetime.now().year - 1)


@pytest.mark.parametrize("form", ["config string", "config list", "files"])
def test_a_template_is_found_wherever_transformers_finds_it(tmp_path: Path, form: str) -> None:
    from transformers import AutoTokenizer

    word_level(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    named = {"default": "D{{ messages | length }}", "tool_use": "T{{ tools | length }}"}
    match form:
        case "config string":
            config["chat_template"] = named["default"]
        case "config list":
            config["chat_template"] = [{"name": k, "template": v} for k, v in named.items()]
        case _:
            (tmp_path / "chat_template.jinja").write_text(named["default"])
            (tmp_path / "additional_chat_templates").mkdir()
            (tmp_path / "additional_chat_templates/tool_use.jinja").write_text(named["tool_use"])
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours, theirs = Tokenizer.from_directory(tmp_path, add_bos=False), AutoTokenizer.from_pretrained(tmp_path)
    for tools in (None, TOOLS):
        assert ours.render_chat(CHAT, tools=tools) == theirs.apply_chat_template(
            CHAT, tools=tools, tokenize=False, add_generation_prompt=True
        )


def test_a_tokenizer_without_a_template_says_what_to_do(tmp_path: Path) -> None:
    word_level(tmp_path)
    with pytest.raises(ConfigurationError, match="has no chat template") as error:
        Tokenizer.from_directory(tmp_path, add_bos=False).render_chat(CHAT)
    assert "chat_template.jinja" in error.value.hint


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('only user and assistant') }}",
        "{{ messages[0].no.such.field }}",
        "{% if %}",
        "{{ messages.__class__.__mro__ }}",
        "{% set ns = namespace(__init__=1) %}",
        "{{ messages.append(1) }}",
        "{{ range(100000000) | list }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_fails_or_breaks_out_is_refused_with_its_reason(tmp_path: Path, source: str) -> None:
    word_level(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(source, encoding="utf-8")
    tokenizer = Tokenizer.from_directory(tmp_path, add_bos=False)
    with pytest.raises(ConfigurationError, match="refuses this conversation"):
        tokenizer.render_chat(CHAT)


def test_the_sandbox_shows_nothing_of_python(tmp_path: Path) -> None:
    word_level(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("<{{ ''.__class__ }}{{ namespace.__init__ }}>")
    assert Tokenizer.from_directory(tmp_path, add_bos=False).render_chat(CHAT) == "<>"


@pytest.mark.parametrize("chat", [[], ["hello"], [None]])
def test_what_is_no_conversation_is_refused(tmp_path: Path, chat: list[Any]) -> None:
    word_level(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("x")
    with pytest.raises(ConfigurationError):
        Tokenizer.from_directory(tmp_path, add_bos=False).render_chat(chat)


def test_eos_ids_are_those_of_the_generation_config_with_the_tokenizers_own(tmp_path: Path) -> None:
    word_level(tmp_path)
    own = Tokenizer.from_directory(tmp_path, add_bos=False).eos_token_id
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 9}))
    assert Tokenizer.from_directory(tmp_path, add_bos=False).eos_token_ids == (9, own)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, own]}))
    assert Tokenizer.from_directory(tmp_path, add_bos=False).eos_token_ids == (7, own)
    assert Tokenizer.from_directory(tmp_path, add_bos=False, eos_token_ids=[5]).eos_token_ids == (5, own)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", None, "no `tokenizer.json`"),
        ("tokenizer.json", b'{"version": "1.0"', "is not a tokenizer"),
        ("tokenizer.json", b"\xff\xfe\x00", "is not a tokenizer"),
        ("tokenizer_config.json", b"{", "is not JSON"),
        ("tokenizer_config.json", b"[]", "holds a list"),
    ],
)
def test_a_damaged_tokenizer_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    word_level(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=said) as error:
        Tokenizer.from_directory(tmp_path, add_bos=False)
    assert error.value.hint


def test_bos_cannot_be_added_where_there_is_none(tmp_path: Path) -> None:
    word_level(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del config["bos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="no BOS token"):
        Tokenizer.from_directory(tmp_path, add_bos=True)


def test_it_loads_without_torch_or_transformers() -> None:
    script = (
        "import sys; import compilers.model.tokenizer\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'numpy', 'onnxruntime', 'tvm'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
