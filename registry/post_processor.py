"""What a tokenizer's post-processor puts around a prompt: the special tokens before and after it.

The only reader of `post_processor` in `tokenizer.json`: registration decides by it whether prompts begin with
BOS, and the tokenizer takes from it which token that is. Its forms are those of the `tokenizers` library
(`tokenizers/src/processors/`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Affixes:
    """Special tokens around a prompt, as text."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def within(self, outer: Affixes) -> Affixes:
        """These, with others around them."""
        return Affixes(outer.before + self.before, self.after + outer.after)


def read_affixes(processor: object) -> Affixes:
    """The affixes of a post-processor, as parsed from `tokenizer.json`; none for a form without any."""
    match processor:
        case {"type": "Sequence", "processors": [*parts]}:
            found = Affixes()
            for part in parts:
                found = found.within(read_affixes(part))
            return found
        case {"type": "TemplateProcessing", "single": [*pieces], **more}:
            return _template_affixes(pieces, named=more.get("special_tokens"))
        case {"type": "BertProcessing" | "RobertaProcessing", "cls": [str(first), _], "sep": [str(last), _]}:
            return Affixes((first,), (last,))
    return Affixes()


def _template_affixes(pieces: list[object], *, named: object) -> Affixes:
    before: list[str] = []
    after: list[str] = []
    place = before
    for piece in pieces:
        match piece:
            case {"Sequence": _}:
                place = after
            case {"SpecialToken": {"id": str(name)}}:
                place += _tokens(name, named=named)
    return Affixes(tuple(before), tuple(after))


def _tokens(name: str, *, named: object) -> list[str]:
    """The tokens behind a name in a template: mostly one, of the same text."""
    match named:
        case {**entries}:
            match entries.get(name):
                case {"tokens": [*tokens]} if tokens and all(isinstance(token, str) for token in tokens):
                    return [str(token) for token in tokens]
    return [name]
