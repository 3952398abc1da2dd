"""The demo family's tokenizer: one id for each word of the agent tasks, letters for every other word.

Words are separated by spaces, so the ids of a context and its continuation are those of each put together.
That is the law that lm-eval needs to score a choice.
"""

import string
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from evals.tasks.words import STOP, VOCABULARY

PAD: Final = "<pad>"
BOS: Final = "<s>"
EOS: Final = "</s>"
UNKNOWN: Final = "<unk>"
_SPECIAL: Final = (PAD, BOS, EOS, UNKNOWN)
_INSIDE: Final = "##"
"""Marks a letter that goes on a word."""
_MULTIPLE: Final = 32
"""The vocabulary is filled up to a multiple of this, so that kernels need no edge case."""
MAX_LENGTH: Final = 512

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    f" {{{{ message['content'].removesuffix('{STOP}').strip() }}}} {STOP} {{{{ eos_token }}}}"
    "{% else %}"
    " {{ message['content'].strip() }}"
    "{% endif %}"
    "{% endfor %}"
)
"""Renders a chat as a training document: context and question, answer, next question, answer …

An answer follows its question at once, so there is no generation prompt to add.
"""


def word_ids() -> dict[str, int]:
    """Return the id of every token, special ones first, letters and fill last."""
    letters = [sign for sign in string.printable if not sign.isspace()]
    tokens = dict.fromkeys((*_SPECIAL, *VOCABULARY, *letters, *(_INSIDE + sign for sign in letters)))
    filled = [*tokens, *(f"<fill_{place}>" for place in range(-len(tokens) % _MULTIPLE))]
    return {token: place for place, token in enumerate(filled)}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer, with its chat template; encoding adds BOS."""
    ids = word_ids()
    backend = Tokenizer(WordPiece(vocab=ids, unk_token=UNKNOWN, continuing_subword_prefix=_INSIDE))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.decoder = WordPieceDecoder(prefix=_INSIDE, cleanup=False)
    backend.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, ids[BOS])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        add_bos_token=True,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files into a checkpoint's folder."""
    build_tokenizer().save_pretrained(folder)
