"""Data files of a user's tasks: their rows and columns, read as the builders of `datasets` read them.

A file is read up to a limit; what lies behind it is only counted. What cannot be told without `datasets`
(compressed files, archives, patterns, addresses) is left to the evaluation.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from registry.errors import ConfigurationError, ToolchainMissingError

READ_BYTES: Final = 16 << 20
"""So much of a file is read row by row: about 0.2 s."""
PLAIN_ENDINGS: Final = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".parquet", ""})

Row = Mapping[str, Any]  # Any: fields of the task's own


@dataclass(frozen=True, slots=True)
class DataRows:
    """What is known of a file."""

    count: int
    columns: frozenset[str]
    rows: tuple[Row, ...]
    """The first rows; all of them, if the file is not larger than is read."""


def read_data(path: Path, *, builder: str, settings: Mapping[str, object]) -> DataRows | None:
    """The rows of a data file; None where only `datasets` can tell.

    Args:
        path: The file.
        builder: Builder of `datasets`: `json`, `csv`, `text` or `parquet`.
        settings: The task's `dataset_kwargs`.

    Raises:
        ConfigurationError: It cannot be read, is damaged, or has no rows.
    """
    readers: dict[str, Callable[[Path, Mapping[str, object]], DataRows | None]] = {
        "json": _read_json, "csv": _read_csv, "text": _read_text, "parquet": _read_parquet,
    }  # fmt: skip
    read = readers.get(builder)
    if read is None or path.suffix not in PLAIN_ENDINGS:
        return None
    try:
        found = read(path, settings)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read `{path}`: {error.strerror}", hint="check its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"`{path}` is not UTF-8 (byte {error.start})", hint="save it as UTF-8"
        ) from error
    if found is not None and not found.count:
        raise ConfigurationError(f"`{path}` has no rows", hint="give it samples")
    return found


def _read_json(path: Path, settings: Mapping[str, object]) -> DataRows | None:
    if settings.get("field") is not None:
        return None
    data = path.read_bytes()
    if data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[":
        return _of_rows(path, _json(path, data, number=None))
    end = len(data) if len(data) <= READ_BYTES else data.rfind(b"\n", 0, READ_BYTES) + 1
    lines = [(n, line) for n, line in enumerate(data[:end].split(b"\n"), start=1) if line.strip()]
    if lines and lines[0][1].strip() in (b"{", b"\xef\xbb\xbf{"):
        return None  # one object over several lines
    rows = [_json(path, line, number=number) for number, line in lines]
    behind = sum(1 for line in data[end:].split(b"\n") if line.strip())
    return _of_rows(path, rows, behind=behind)


def _json(path: Path, data: bytes, *, number: int | None) -> Any:  # noqa: ANN401  # JSON
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", 1) if number is None else number
        raise ConfigurationError(
            f"`{path}` line {line} is not JSON: {error}", hint="correct that line, or remove it"
        ) from error


def _of_rows(path: Path, rows: object, *, behind: int = 0) -> DataRows:
    assert isinstance(rows, list)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ConfigurationError(
                f"`{path}`: row {number} is not an object with fields", hint="write one JSON object per line"
            )
    columns = frozenset(key for row in rows for key in row)
    empty = dict.fromkeys(columns)
    return DataRows(len(rows) + behind, columns, tuple(empty | row for row in rows))


def _read_csv(path: Path, settings: Mapping[str, object]) -> DataRows | None:
    if set(settings) - {"data_files", "sep", "delimiter", "cache_dir"} or path.stat().st_size > READ_BYTES:
        return None
    separator = str(settings.get("sep") or settings.get("delimiter") or ",")
    text = path.read_bytes().decode("utf-8-sig")
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if line]
    except (csv.Error, TypeError) as error:
        raise ConfigurationError(f"`{path}` is not CSV: {error}", hint="correct it") from error
    if not lines:
        return DataRows(0, frozenset(), ())
    header, *rows = lines
    for number, row in enumerate(rows, start=2):
        if len(row) > len(header):
            raise ConfigurationError(
                f"`{path}` row {number} has {len(row)} fields, its first row {len(header)}",
                hint="quote fields that hold the separator",
            )
    return DataRows(len(rows), frozenset(header), tuple(dict(zip(header, row, strict=False)) for row in rows))


def _read_text(path: Path, settings: Mapping[str, object]) -> DataRows | None:
    if set(settings) - {"data_files", "cache_dir"}:
        return None
    lines = path.read_bytes().decode("utf-8").splitlines()
    return DataRows(len(lines), frozenset({"text"}), tuple({"text": line} for line in lines))


def _read_parquet(path: Path, _settings: Mapping[str, object]) -> DataRows | None:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise ToolchainMissingError("pyarrow is not installed", hint="install `rung[eval]`") from error
    try:
        with ParquetFile(path) as file:
            return DataRows(file.metadata.num_rows, frozenset(file.schema_arrow.names), ())
    except ArrowException as error:
        raise ConfigurationError(f"`{path}` is not Parquet: {error}", hint="write it again") from error
