from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from registry.errors import ConfigurationError, SchemaError
from registry.value import Value, configuration_error, describe

pytestmark = pytest.mark.smoke


class Inner(Value):
    count: int = Field(gt=0)


class Outer(Value):
    name: str
    inner: tuple[Inner, ...] = ()


def refusal(document: object) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(document)
    return caught.value


def test_a_value_is_frozen_and_closed_to_unknown_fields() -> None:
    value = Outer(name="a")
    with pytest.raises(ValidationError, match="frozen"):
        value.name = "b"  # type: ignore[misc]  # what the test is about
    assert describe(refusal({"name": "a", "nmae": "b"})) == ("nmae: Extra inputs are not permitted (got 'b')")


def test_the_first_problem_is_named_by_its_field_with_what_was_given() -> None:
    assert describe(refusal({"name": "a", "inner": [{"count": 1}, {"count": 0}]})) == (
        "inner.1.count: Input should be greater than 0 (got 0)"
    )
    assert describe(refusal({"name": 1, "inner": 2})).endswith("(got 1), and 1 more")
    assert describe(refusal([])).startswith("document: ")


def test_what_was_given_is_cut_at_80_characters() -> None:
    said = describe(refusal({"name": "a", "inner": "x" * 500}))
    assert said.endswith(f"(got '{'x' * 76}...)")


def test_a_file_holds_the_value_or_is_named(tmp_path: Path) -> None:
    path = tmp_path / "outer.json"
    with pytest.raises(SchemaError, match=r"no outer at `.*outer\.json`"):
        Outer.read_json(path)
    value = Outer(name="a", inner=(Inner(count=3),))
    path.write_text(value.model_dump_json())
    assert Outer.read_json(path) == value
    for text in ("", "{", "[]", '{"name": 3}'):
        path.write_text(text)
        with pytest.raises(SchemaError, match=r"outer\.json` is not an outer: "):
            Outer.read_json(path)


def test_what_a_person_wrote_is_a_configuration_error() -> None:
    error = configuration_error(refusal({}), where="`rung.toml`", hint="see the reference")
    assert isinstance(error, ConfigurationError)
    assert str(error) == "`rung.toml`: name: Field required (got {})\nhint: see the reference"
