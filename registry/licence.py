"""The licence of a checkpoint: an SPDX identifier from its model card or licence file, or `unknown`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

UNKNOWN = "unknown"
_SPDX: Mapping[str, str] = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd": "BSD-3-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "isc": "ISC",
    "gpl-3.0": "GPL-3.0-only",
    "agpl-3.0": "AGPL-3.0-only",
    "lgpl-3.0": "LGPL-3.0-only",
    "mpl-2.0": "MPL-2.0",
    "unlicense": "Unlicense",
    "cc0-1.0": "CC0-1.0",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
}
"""Hugging Face's identifier → SPDX's (https://huggingface.co/docs/hub/repositories-licenses)."""
_TEXTS = (
    (r"Apache License\s+Version 2\.0", "Apache-2.0"),
    (r"MIT License|Permission is hereby granted, free of charge", "MIT"),
    (r"Mozilla Public License Version 2\.0", "MPL-2.0"),
    (r"GNU AFFERO GENERAL PUBLIC LICENSE\s+Version 3", "AGPL-3.0-only"),
    (r"GNU GENERAL PUBLIC LICENSE\s+Version 3", "GPL-3.0-only"),
)
_HEAD_CHARACTERS = 4096


def read_licence(checkpoint: Path) -> str:
    """The licence stated in a checkpoint directory.

    `license:` (or `license_name:`) in the front matter of README.md takes precedence over a licence file. A
    licence that has no SPDX identifier becomes `LicenseRef-NAME`, as SPDX prescribes for others.
    """
    card = _text(checkpoint / "README.md")
    front = re.match(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", card, re.DOTALL)
    if front:
        stated = _field(front[1], "license")
        if stated in ("other", None):
            stated = _field(front[1], "license_name") or stated
        if stated not in ("other", "unknown", None):
            return _SPDX.get(stated.lower(), _reference(stated))
    for file in sorted(checkpoint.iterdir()):
        if re.match(r"(licen[sc]e|copying)", file.name, re.IGNORECASE) and file.is_file():
            text = _text(file)[:_HEAD_CHARACTERS]
            return next((name for pattern, name in _TEXTS if re.search(pattern, text)), UNKNOWN)
    return UNKNOWN


def _field(front: str, name: str) -> str | None:
    """A scalar (or the only entry of a list) in YAML front matter."""
    found = re.search(rf"^{name}:[ \t]*(.*?)[ \t]*(?:#.*)?$\n?((?:[ \t]*-[ \t]+.*\n?)*)", front, re.MULTILINE)
    if not found:
        return None
    inline = found[1].strip().strip("[]")
    listed = re.findall(r"-[ \t]+(.*)", found[2])
    values = [value.strip().strip("\"'") for value in ([inline] if inline else listed)]
    return values[0] if len(values) == 1 and values[0] and "," not in values[0] else None


def _reference(name: str) -> str:
    return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
