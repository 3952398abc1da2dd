"""MLflow model version tags: how Rung describes a checkpoint in MLflow.

rung.digest         digest of the tree of files        rung.licence   SPDX identifier or `unknown`
rung.facts          digest of `rung.json`              rung.add_bos   `true` or `false`
rung.family         model family                       rung.parent    `name/version`, if it has one
rung.architecture   as in config.json                  rung.parameters
"""

from __future__ import annotations

from typing import Final

from registry.catalog import ModelVersion
from registry.checkpoint import Checkpoint
from registry.digest import digest_value
from registry.errors import ConfigurationError
from registry.intake import CheckpointFacts

PREFIX: Final = "rung."
DIGEST: Final = "rung.digest"
"""Set last: a version with this tag has all the others."""
FACTS: Final = "rung.facts"


def version_tags(
    facts: CheckpointFacts, *, family: str, licence: str | None, parent: str | None, add_bos: bool | None
) -> dict[str, str]:
    """All tags of a version: what the user stated, and otherwise what was found in the files."""
    stated = stated_tags(
        family=family,
        licence=licence or facts.licence,
        parent=parent,
        add_bos=facts.add_bos if add_bos is None else add_bos,
    )
    return {
        **stated,
        DIGEST: facts.digest,
        FACTS: digest_value(facts),
        f"{PREFIX}architecture": facts.architecture,
        f"{PREFIX}parameters": str(facts.parameters),
    }


def stated_tags(
    *, family: str, licence: str | None, parent: str | None, add_bos: bool | None
) -> dict[str, str]:
    """Tags for what the user stated, without what was left open."""
    stated = {
        "family": family,
        "licence": licence,
        "parent": parent,
        "add_bos": None if add_bos is None else str(add_bos).lower(),
    }
    return {f"{PREFIX}{key}": value for key, value in stated.items() if value is not None}


def check_stated(version: ModelVersion, *, asked: dict[str, str]) -> None:
    """Refuse statements that differ from the registered ones.

    Raises:
        ConfigurationError: A statement differs.
    """
    for key, value in asked.items():
        if version.tags.get(key) != value:
            raise ConfigurationError(
                f"`{version.name}/{version.version}` holds the same files with {key} = "
                f"`{version.tags.get(key, '')}`, not `{value}`",
                hint="omit the option, or register it under another name",
            )


def checkpoint_of(version: ModelVersion, facts: CheckpointFacts) -> Checkpoint:
    """The checkpoint that a tagged version describes."""
    tags = version.tags
    return Checkpoint(
        name=version.name,
        version=str(version.version),
        digest=facts.digest,
        files=facts.files,
        family=tags.get(f"{PREFIX}family", "unknown"),
        architecture=facts.architecture,
        parameters=facts.parameters,
        licence=tags.get(f"{PREFIX}licence", facts.licence),
        add_bos=tags.get(f"{PREFIX}add_bos", str(facts.add_bos).lower()) == "true",
        parent=tags.get(f"{PREFIX}parent"),
    )
