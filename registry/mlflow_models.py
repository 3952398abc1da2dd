"""Logged models of MLflow: where it keeps the files of a checkpoint, and what a killed `add` leaves there.

A logged model is made before the version that refers to it, and is finished when it has all files.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from registry.atomic import scratch_directory
from registry.catalog import ModelVersion
from registry.checkpoint import FileEntry
from registry.errors import CheckpointError
from registry.mlflow_client import Client, LoggedModel, local_directory
from registry.store import Store
from registry.tags import DIGEST

_HOST: Final = "rung.host"
"""Tag of what `add` made: on which machine."""


def take_up(client: Client, experiment: str, *, name: str, digest: str) -> str | None:
    """The finished logged model of a killed `add`, if there is one; unfinished ones are removed."""
    where = f"tags.`{DIGEST}` = '{digest}'"
    found = [
        one for one in client.search_logged_models([experiment], filter_string=where) if one.name == name
    ]
    ready = [one.model_id for one in found if str(one.status) == "READY"]
    for one in found:
        if one.model_id not in ready and one.tags.get(_HOST) == platform.node():
            client.delete_logged_model(one.model_id)
    for run in client.search_runs([experiment], filter_string=f"{where} and attributes.status = 'RUNNING'"):
        if run.data.tags.get(_HOST) == platform.node():
            client.set_terminated(run.info.run_id, status="KILLED")
    return ready[0] if ready else None


def log_model(
    client: Client,
    experiment: str,
    *,
    name: str,
    tags: dict[str, str],
    files: Sequence[FileEntry],
    store: Store,
    parent: str | None,
) -> str:
    """Fill a logged model and finish it; its lineage is a run with the parent as input."""
    marks = {**tags, _HOST: platform.node()}
    run = None
    if parent is not None and parent.startswith("models:/m-"):
        from mlflow.entities import LoggedModelInput

        run = client.create_run(experiment, run_name=f"add {name}", tags=marks).info.run_id
        client.log_inputs(run, models=[LoggedModelInput(parent.removeprefix("models:/"))])
    created = client.create_logged_model(
        experiment, name=name, source_run_id=run, tags=marks, model_type="checkpoint"
    )
    model = created.model_id
    _put_files(client, model, files, store=store, location=created.artifact_location)
    client.finalize_logged_model(model, "READY")
    if run is not None:
        from mlflow.entities import LoggedModelOutput

        client.log_outputs(run, [LoggedModelOutput(model, step=0)])
        client.set_terminated(run, status="FINISHED")
    return str(model)


def own_model(client: Client, version: ModelVersion) -> LoggedModel | None:
    """The logged model that `add` made for a version; None for versions of others, and if it is deleted."""
    if not version.source.startswith("models:/m-"):
        return None
    try:
        model = client.get_logged_model(version.source.removeprefix("models:/"))
    except Exception as error:
        if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return model if _HOST in model.tags else None


def create_registered(client: Client, name: str) -> None:
    """Make a registered model unless it is there."""
    try:
        client.create_registered_model(name)
    except Exception as error:
        if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
            raise


def locate(directory: Path, *, where: str) -> Path:
    """The checkpoint in a downloaded version: at the top level, or in the only folder with a config.json.

    The `transformers` flavour of MLflow keeps the tokenizer in a separate folder; its files are moved
    next to the model.
    """
    if (directory / "config.json").is_file():
        return directory
    found = sorted(path.parent for path in directory.rglob("config.json"))
    if len(found) != 1:
        what = f"{len(found)} folders with a config.json" if found else "no config.json"
        raise CheckpointError(
            f"`{where}` holds {what}", hint="register the files of one checkpoint as the version's artifacts"
        )
    tokenizer = directory / "components" / "tokenizer"
    if tokenizer.is_dir() and found[0] == directory / "model":
        for file in tokenizer.iterdir():
            target = found[0] / file.name
            if not target.exists():
                file.rename(target)
    return found[0]


def _put_files(
    client: Client, model: str, files: Sequence[FileEntry], *, store: Store, location: str
) -> None:
    """Give a logged model its files: on the store's own disk as links, so that the bytes are there once."""
    here = local_directory(location)
    if here is not None:
        store.materialise(files, out=here)
        return
    with scratch_directory(store.ingest, name="upload") as scratch:
        store.materialise(files, out=scratch / "files")
        client.log_model_artifacts(model, str(scratch / "files"))
