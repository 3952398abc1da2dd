"""MLflow runs that show what was built and measured, one for each subject and version of it.

A run is found again by two tags, so that writing the same record twice changes nothing and a changed one
updates its run. MLflow's own client writes them, in a few calls for each run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from registry.mlflow_client import Client, experiment_id, open_client

SUBJECT: Final = "rung.cell"
VERSION: Final = "rung.artifact"
CONTENT: Final = "rung.content"
"""Digest of what the run says; as the record's, and nothing has to be written."""
CURRENT: Final = "rung.current"
"""`true` at the run of a subject's latest version."""
_PAGE: Final = 1000
_TAG_LENGTH: Final = 4000
"""Characters of a tag; MLflow takes 8,000 from version 2.15 on, databases of before 5,000."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What one run says."""

    subject: str
    version: str
    """Of the subject; another version is another run. Empty: there is none."""
    content: str
    """Digest of what follows."""
    status: Literal["FINISHED", "FAILED"]
    started_at: datetime
    ended_at: datetime
    parameters: Mapping[str, str]
    """The same in every record of a subject."""
    tags: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Finite numbers: some of MLflow's databases keep no others."""
    parent: str | None = None
    """`models:/m-…` of the logged model that it was built from."""


def write_runs(uri: str, records: Sequence[RunRecord], *, experiment: str) -> int:
    """Bring the runs of an experiment up to date; how many were written.

    Args:
        uri: MLflow tracking URI.
        records: One for each subject.
        experiment: Its name; it is created if missing.

    Raises:
        ToolchainMissingError: MLflow is not installed.
        RegistryError: MLflow refused, or cannot be reached.
    """
    with open_client(uri) as client:
        place = experiment_id(client, uri, name=experiment)
        known = _known(client, place)
        written = 0
        for record in records:
            runs = known.get(record.subject, {})
            run = runs.get(record.version)
            if run is not None and run[1] == record.content:
                continue
            _write(client, place, record, run=None if run is None else run[0])
            for version, (other, _) in runs.items():
                if version != record.version:
                    client.set_tag(other, CURRENT, "false")
            written += 1
        return written


def _known(client: Client, experiment: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Subject → version → the run's id and what it says."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    token = None
    while True:
        page = client.search_runs([experiment], max_results=_PAGE, page_token=token)
        for run in page:
            tags = run.data.tags
            if SUBJECT in tags:
                versions = found.setdefault(tags[SUBJECT], {})
                versions[tags.get(VERSION, "")] = (run.info.run_id, tags.get(CONTENT, ""))
        token = page.token
        if not token:
            return found


def _write(client: Client, experiment: str, record: RunRecord, *, run: str | None) -> None:
    """Create or update a run; its content tag comes last, because it marks the others as complete."""
    from mlflow.entities import LoggedModelInput, Metric, Param, RunTag

    marks = {SUBJECT: record.subject, VERSION: record.version, CURRENT: "true"}
    if run is None:
        started = _milliseconds(record.started_at)
        created = client.create_run(experiment, start_time=started, tags=marks, run_name=record.subject)
        run = str(created.info.run_id)
        if record.parent is not None and record.parent.startswith("models:/m-"):
            client.log_inputs(run, models=[LoggedModelInput(record.parent.removeprefix("models:/"))])
    at = _milliseconds(record.ended_at)
    client.log_batch(
        run,
        metrics=[Metric(name, value, at, 0) for name, value in record.metrics.items()],
        params=[Param(name, value) for name, value in record.parameters.items()],
        tags=[RunTag(name, value[:_TAG_LENGTH]) for name, value in {**record.tags, **marks}.items()],
    )
    client.set_terminated(run, status=record.status, end_time=at)
    client.set_tag(run, CONTENT, record.content)


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)
