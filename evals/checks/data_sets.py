"""Whether a data set of the Hugging Face Hub can be had here: in the cache of `datasets`, or from the Hub.

The Hub is asked one question with a short limit, and only for what is not in the cache.
"""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from registry.errors import ConfigurationError

ANSWER_WITHIN_S: Final = 2.5
"""How long the Hub may take."""
_ON: Final = frozenset({"1", "true", "yes", "on"})


def check_data_set(path: str, name: object, *, task: str) -> None:
    """Check that a data set is here, or that the Hub has it.

    Args:
        path: The task's `dataset_path`.
        name: The task's `dataset_name`.
        task: The task, for messages.

    Raises:
        ConfigurationError: It cannot be had.
    """
    if Path(path).is_dir() or is_cached(path):
        return
    shown = f"data set `{path}`" + (f" ({name})" if isinstance(name, str) else "")
    if any(os.environ.get(flag, "").lower() in _ON for flag in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")):
        raise ConfigurationError(
            f"{task} needs the {shown}, which is not in the cache here, and downloads are switched off",
            hint="unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE once, or point the task to local `data_files`",
        )
    question = _Question(path)
    question.ask()
    if question.refusal is not None:
        raise ConfigurationError(
            f"{task} needs the {shown}, which is not in the cache here: {question.refusal}",
            hint="correct the name, get access or a network, or point the task to local `data_files`",
        )


def is_cached(path: str) -> bool:
    """Whether `datasets` or the Hub's client has downloaded a data set before."""
    home = Path(os.environ.get("HF_HOME") or _cache_home() / "huggingface").expanduser()
    datasets = Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    wanted = _plain(path.replace("/", "___"))
    built = datasets.iterdir() if datasets.is_dir() else ()
    return (hub / f"datasets--{path.replace('/', '--')}").is_dir() or any(
        _plain(one.name) == wanted for one in built
    )


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _plain(name: str) -> str:
    """A name without what `datasets` changes in it for a folder."""
    return name.lower().replace("_", "").replace("-", "")


@dataclass(slots=True)
class _Question:
    """One question to the Hub, asked by a thread: looking up its address may take longer than any limit."""

    path: str
    refusal: str | None = field(default="the Hub does not answer", init=False)

    def ask(self) -> None:
        """Ask, and wait for a limited time."""
        thread = threading.Thread(target=self._ask, daemon=True)
        thread.start()
        thread.join(ANSWER_WITHIN_S)

    def _ask(self) -> None:
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        address = f"{endpoint.rstrip('/')}/api/datasets/{urllib.parse.quote(self.path)}"
        headers = {"User-Agent": "rung"}
        if token := os.environ.get("HF_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(address, headers=headers, method="HEAD")  # as configured
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_WITHIN_S):  # as configured
                self.refusal = None
        except urllib.error.HTTPError as error:
            known = {401: "the Hub has no such data set, or not for you", 404: "the Hub has no such data set"}
            self.refusal = known.get(error.code)
        except (OSError, ValueError) as error:
            self.refusal = f"the Hub cannot be reached ({error})"
