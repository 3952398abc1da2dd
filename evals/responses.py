"""Responses: what a model answered, kept in its scorecard so that anybody can mark the samples again.

They are packed as base64 of deflated JSON: a list per sample, of one response per request of lm-eval's. A
thousand multiple-choice samples take about 50 kB, a thousand generated sentences about 30 kB.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Sequence
from typing import Final, TypeAlias

from registry.errors import EvaluationError

Response: TypeAlias = str | float | tuple[float, bool]
"""A generated text; the log-probability of a whole text; or that of a continuation, and whether it is what
greedy decoding gives."""

MAX_BYTES: Final = 256 << 20
"""Of the JSON."""


def pack_responses(samples: Sequence[Sequence[Response]]) -> str:
    """The responses of samples as text."""
    document = json.dumps([list(one) for one in samples], ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(document.encode("utf-8", "surrogatepass"), 9)).decode("ascii")


def unpack_responses(packed: str) -> list[tuple[Response, ...]]:
    """The responses of each sample.

    Raises:
        EvaluationError: The text is not what `pack_responses` makes.
    """
    try:
        inflater = zlib.decompressobj()
        document = inflater.decompress(base64.b64decode(packed, validate=True), MAX_BYTES)
        if not inflater.eof:
            raise ValueError("it is cut off or too long")
        samples = json.loads(document.decode("utf-8", "surrogatepass"))
        return [tuple(_response(given) for given in _list(one)) for one in _list(samples)]
    except (binascii.Error, zlib.error, ValueError, TypeError, RecursionError) as error:
        raise EvaluationError(
            f"the responses in a scorecard cannot be read: {error}", hint="evaluate again"
        ) from error


def _list(found: object) -> list[object]:
    if isinstance(found, list):
        return found
    raise ValueError(f"{str(found)[:40]!r} is not a list")


def _response(found: object) -> Response:
    match found:
        case str() | float():
            return found
        case [float(probability), bool(greedy)]:
            return probability, greedy
    raise ValueError(f"{str(found)[:40]!r} is not a response")
