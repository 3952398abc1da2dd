"""Reference pages of what Rung promises to callers: exit codes, gates, HTTP and environment variables."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Final, cast

from pipeline.reference.docstrings import attribute_docs, escaped, names, summary
from registry.errors import RungError

ERROR_MODULES: Final = ("registry.errors", "serving.contract.problems")
"""Where errors are declared."""

ENVIRONMENT: Final[Mapping[str, str]] = {
    "RUNG_WORKSPACE": "directory of the workspace; default: the nearest at or above the current one",
    "RUNG_DATABASE_URL": "SQLAlchemy URL of the database, instead of `database_url` in `rung.toml`",
    "MLFLOW_TRACKING_URI": "MLflow server, instead of `mlflow_uri` in `rung.toml`",
    "MLFLOW_TRACKING_TOKEN": "bearer token for the MLflow server",
    "MLFLOW_TRACKING_USERNAME": "user name for the MLflow server",
    "MLFLOW_TRACKING_PASSWORD": "password for the MLflow server",
    "RUNG_MLFLOW_RUNS": "`off`: builds and releases write no runs to MLflow; `rung matrix track` still does",
    "RAY_ADDRESS": "Ray cluster of `rung build --executor ray`; default: `auto`",
    "RUNG_AARCH64_ROOT": "AArch64 userland for rehearsals under QEMU, made by `make aarch64-root`",
    "VK_ICD_FILENAMES": "Vulkan driver for rehearsals of SPIR-V, such as Mesa's llvmpipe",
    "XDG_CACHE_HOME": "user's cache, in which `rung` keeps the names that the installed lm-eval knows",
    "HF_HUB_OFFLINE": "`1`: no data set of a task is downloaded; `HF_DATASETS_OFFLINE` is the same",
    "HF_DATASETS_OFFLINE": "as `HF_HUB_OFFLINE`",
    "HF_HOME": "folder of what was downloaded from the Hugging Face Hub, in which data sets are looked for",
    "HF_DATASETS_CACHE": "data sets that were downloaded, instead of `datasets` in `HF_HOME`",
    "HF_HUB_CACHE": "the Hub's files that were downloaded, instead of `hub` in `HF_HOME`",
    "HF_ENDPOINT": "the Hub that is asked whether it has a data set; default: `https://huggingface.co`",
    "HF_TOKEN": "token for the Hub",
    "CUDA_HOME": "CUDA toolkit whose `nvcc` compiles CUDA targets",
    "CUDA_PATH": "as `CUDA_HOME`, which is read first",
}
"""Variables that Rung reads → meaning; a test finds those that are missing here."""

ABOUT_GATES: Final = """\
`rung resolve`, `rung pull` and `rung serve` ask these questions of every candidate of a release, in order
(`matrices/resolve/gates.py`). A gate passes, denies, or is indeterminate because a fact is not known. Only a
candidate that passes every gate may be served; for the others the answer names the first gate that failed."""

ABOUT_SAMPLING: Final = """\
What a request leaves open is OpenAI's default: `temperature` 1, `top_p` 1, no `top_k`, no penalties. The
sampling settings of a checkpoint's `generation_config.json` are not applied, here or in evaluations, so that
the same request means the same on every rung of a ladder; `rung checkpoint add` notes those that change even
greedy text (`repetition_penalty` …). transformers and vLLM apply them; a caller may send the first three. Its
`eos_token_id` is applied: a text ends at each of these tokens and at the tokenizer's own EOS; where it names
none, `config.json` does."""
ABOUT_LIMITS: Final = """\
A body is JSON in UTF-8, uncompressed; another `Content-Type` is answered 415. A longer body than the served
context can need is answered 413, more or longer headers 431. A server on loopback answers 403 to `Host` and
`Origin` of other names than loopback's and those given with `rung serve --allow-host`."""

ABOUT_ERRORS: Final = """\
Errors have OpenAI's form. `error.rung` adds Rung's code, the hint, `retry_after_s` (also as the header
`Retry-After`) where waiting may help, and `alternatives` where a tier is not available. All codes are in
[exit-codes.md](exit-codes.md); these belong to serving:"""


def exit_codes() -> Iterator[str]:
    """Lines of the page of errors, by exit code."""
    errors = sorted(_errors(), key=lambda each: (each.exit_code, each.code))
    yield from (
        "`rung` exits with 0 when it is done, and with 128 plus the number of the signal that ended it "
        "(130 after ^C, 143 after SIGTERM).",
        "",
    )
    yield from ("With `--json` and over HTTP an error has the code in the second column.", "")
    yield from ("| Exit | Code | HTTP | Meaning |", "|---|---|---|---|")
    for error in errors:
        yield f"| {error.exit_code} | `{error.code}` | {error.http_status} | {escaped(summary(error))} |"


def _errors() -> set[type[RungError]]:
    modules = [importlib.import_module(name) for name in ERROR_MODULES]
    found = {each for module in modules for each in vars(module).values() if isinstance(each, type)}
    return {each for each in found if issubclass(each, RungError) and each is not RungError}


def gates() -> Iterator[str]:
    """Lines of the page of gates, in their order."""
    from matrices.resolve.gates import GATES

    yield ABOUT_GATES
    yield from ("", "| Gate | Passes if |", "|---|---|")
    for name, gate in GATES:
        yield f"| `{name}` | {escaped(summary(gate))} |"


def http() -> Iterator[str]:
    """Lines of the page of the server: routes, headers, parameters, errors."""
    yield from ("Served by `rung serve` (`serving/http/app.py`).", "", "## Routes", "", "| | |", "|---|---|")
    for method, path, meaning in _routes():
        yield f"| `{method} {path}` | {meaning} |"
    yield from ("", "## Headers", "", "| | |", "|---|---|")
    for header, meaning in _headers().items():
        yield f"| `{header}` | {meaning} |"
    yield from ("", "## Parameters", "")
    from serving.openai.schemas import NEUTRAL, ChatBody, CompletionBody

    shared = set(CompletionBody.model_fields) & set(ChatBody.model_fields)
    yield f"Both: {names(shared)}."
    yield f"Completions: {names(set(CompletionBody.model_fields) - shared)}."
    yield f"Chat completions: {names(set(ChatBody.model_fields) - shared)}."
    yield from ("", f"Refused by name unless they ask for nothing: {names(set(NEUTRAL))}.", "")
    yield from ("Any other parameter is refused.", "", ABOUT_SAMPLING, "", "## Limits", "", ABOUT_LIMITS, "")
    yield from ("| | |", "|---|---|")
    for meaning, limit in _limits():
        yield f"| {escaped(meaning.rstrip('.'))} | {limit:,.0f} |"
    yield from ("", "## Errors", "")
    yield ABOUT_ERRORS
    yield from ("", "| Status | Code | Meaning |", "|---|---|---|")
    problems = importlib.import_module("serving.contract.problems")
    for error in sorted(_errors(), key=lambda each: (each.http_status, each.code)):
        if error.__module__ == problems.__name__:
            yield f"| {error.http_status} | `{error.code}` | {escaped(summary(error))} |"


def _routes() -> Iterator[tuple[str, str, str]]:
    from fastapi.routing import APIRoute

    from serving.http.app import create_app
    from serving.http.current import Current

    current = cast("Current", None)  # routes are not called here
    for route in create_app(current).routes:
        if isinstance(route, APIRoute):
            for method in sorted(route.methods or ()):
                yield method, route.path.replace(":path}", "}"), escaped(summary(route.endpoint))


def _limits() -> Iterator[tuple[str, float]]:
    from serving.http.connection import ConnectionLimits
    from serving.openai import served

    [code] = ast.parse(inspect.getsource(ConnectionLimits)).body
    assert isinstance(code, ast.ClassDef)
    documented = attribute_docs(code)
    for name, limit in asdict(ConnectionLimits()).items():
        yield f"`{name}`: {documented[name]}", limit
    documented = attribute_docs(ast.parse(inspect.getsource(served)))
    for name in ("FIXED_BODY_BYTES", "TOKEN_BODY_BYTES", "MAX_BODY_BYTES"):
        yield f"`{name}`: {documented[name]}", vars(served)[name]


def _headers() -> dict[str, str]:
    from serving.contract import terms

    documented = attribute_docs(ast.parse(inspect.getsource(terms)))
    return {
        value: escaped(documented.get(name, ""))
        for name, value in vars(terms).items()
        if isinstance(value, str) and value.startswith("X-Rung-")
    }


def environment() -> Iterator[str]:
    """Lines of the page of environment variables."""
    yield from ("| Variable | Meaning |", "|---|---|")
    for name, meaning in ENVIRONMENT.items():
        yield f"| `{name}` | {meaning} |"
