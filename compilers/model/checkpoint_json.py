"""JSON files of a checkpoint that may be missing: settings of the tokenizer, and of generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from registry.errors import CheckpointError

Json = dict[str, Any]  # Any: JSON of files that others wrote


def read_object(path: Path) -> Json:
    """The JSON object in a file; empty where there is no file.

    Raises:
        CheckpointError: It cannot be read, or holds no JSON object.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"`{path}` is not JSON: {error}", hint="it is damaged; save or download it again"
        ) from error
    if not isinstance(document, dict):
        raise CheckpointError(
            f"`{path}` holds a {type(document).__name__}", hint="it must hold a JSON object"
        )
    return document
