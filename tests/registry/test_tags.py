from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.catalog import ModelVersion
from registry.digest import digest_bytes, digest_value
from registry.errors import ConfigurationError
from registry.intake import CheckpointFacts
from registry.tags import DIGEST, FACTS, check_stated, checkpoint_of, stated_tags, version_tags

pytestmark = pytest.mark.smoke

NAME = st.text("abc", min_size=1, max_size=4)
FOUND = st.builds(
    CheckpointFacts, digest=st.binary(max_size=2).map(digest_bytes), files=st.just(()), architecture=NAME,
    parameters=st.integers(0, 10**12), licence=NAME, add_bos=st.booleans(),
)  # fmt: skip
STATED = st.fixed_dictionaries(
    {
        "family": NAME,
        "licence": st.none() | NAME,
        "parent": st.none() | NAME,
        "add_bos": st.none() | st.booleans(),
    }
)


def version_of(facts: CheckpointFacts, stated: dict) -> ModelVersion:
    return ModelVersion("name", 3, "models:/m-1", version_tags(facts, **stated))


@given(facts=FOUND, stated=STATED)
def test_a_checkpoint_is_what_was_stated_and_else_what_was_found(facts, stated):
    found = checkpoint_of(version_of(facts, stated), facts)
    assert found.ref == "name/3"
    assert (found.family, found.parent) == (stated["family"], stated["parent"])
    assert found.licence == (stated["licence"] or facts.licence)
    assert found.add_bos == (facts.add_bos if stated["add_bos"] is None else stated["add_bos"])
    assert (found.digest, found.parameters) == (facts.digest, facts.parameters)


@given(facts=FOUND, stated=STATED)
def test_the_tags_name_the_files_and_their_description(facts, stated):
    tags = version_tags(facts, **stated)
    assert (tags[DIGEST], tags[FACTS]) == (facts.digest, digest_value(facts))


@given(facts=FOUND, stated=STATED, asked=STATED)
def test_asking_for_what_was_stated_passes_and_for_anything_else_does_not(facts, stated, asked):
    version = version_of(facts, stated)
    known = checkpoint_of(version, facts)
    differs = [key for key, value in asked.items() if value is not None and value != getattr(known, key)]
    if not differs:
        check_stated(version, asked=stated_tags(**asked))
        return
    with pytest.raises(ConfigurationError, match=rf"rung\.({'|'.join(differs)}) = "):
        check_stated(version, asked=stated_tags(**asked))
