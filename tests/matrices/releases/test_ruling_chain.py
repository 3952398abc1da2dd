"""The chain of rulings: whatever is done to it without the key is found, and the ruling is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrices.releases.ruling import Ruling
from matrices.releases.ruling_chain import (
    ChainHead,
    SealedRuling,
    chain_problems,
    read_head,
    seal_ruling,
    write_head,
)
from registry.digest import digest_value
from registry.errors import SignatureError
from registry.signing import generate_keys

NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
LENGTH = 5


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the workspace's pair `own` and a stranger's pair `other`."""
    directory = tmp_path_factory.mktemp("keys")
    for name in ("own", "other"):
        generate_keys(directory / f"{name}.key", directory / f"{name}.pub")
    return directory


@pytest.fixture(scope="module")
def chain(keys: Path) -> list[SealedRuling]:
    return make_chain(keys, [ruling(number) for number in range(LENGTH)])


def ruling(number: int, **change: object) -> Ruling:
    verb = ("approve", "withdraw", "reject")[number % 3]
    made = {
        "cell": f"c{number % 2}", "verb": verb, "who": "Ada", "why": f"reason {number}",
        "at": NOW + timedelta(minutes=number), "artifact": digest_value(number),
    }  # fmt: skip
    return Ruling.model_validate(made | change)


def make_chain(keys: Path, rulings: list[Ruling], *, by: str = "own") -> list[SealedRuling]:
    made: list[SealedRuling] = []
    for one in rulings:
        earlier = made[-1].seal if made else None
        seal = seal_ruling(
            one,
            previous=earlier.digest if earlier else None,
            private_key=keys / f"{by}.key",
            public_key=keys / f"{by}.pub",
        )
        made.append(SealedRuling(one, seal))
    return made


def head_of(chain: list[SealedRuling]) -> ChainHead:
    seal = chain[-1].seal
    assert seal is not None
    return ChainHead(count=len(chain), latest=seal.digest)


def problems(chain: list[SealedRuling], keys: Path, head: ChainHead | None) -> list[str]:
    return chain_problems(chain, head=head, keys=[keys / "own.pub"])


def test_a_chain_as_it_was_made_has_no_problem(chain: list[SealedRuling], keys: Path) -> None:
    assert problems(chain, keys, head_of(chain)) == []
    assert problems(chain, keys, head_of(chain[:3])) == []  # killed before the latest was noted
    assert problems([], keys, None) == []


@settings(max_examples=60, deadline=None)
@given(
    order=st.lists(st.integers(0, LENGTH - 1), max_size=LENGTH + 1),
)
def test_every_other_selection_or_order_of_the_rulings_is_found(
    chain: list[SealedRuling], keys: Path, order: list[int]
) -> None:
    found = problems([chain[number] for number in order], keys, head_of(chain))
    assert (found == []) == (order == list(range(LENGTH)))


@pytest.mark.parametrize("place", range(LENGTH))
@pytest.mark.parametrize(
    "change",
    [
        {"verb": "approve", "why": "good"},
        {"who": "Eve"},
        {"cell": "c9"},
        {"artifact": digest_value("another")},
        {"at": NOW - timedelta(days=1)},
        {"waiver": "fine"},
        {"missing": ("nothing",)},
    ],
)
def test_a_changed_ruling_is_named(
    chain: list[SealedRuling], keys: Path, place: int, change: dict[str, object]
) -> None:
    forged = list(chain)
    forged[place] = SealedRuling(chain[place].ruling.model_copy(update=change), chain[place].seal)
    (found,) = problems(forged, keys, head_of(chain))
    assert found.startswith(f"ruling {place + 1} (")
    assert "was changed after it was signed" in found


def test_a_removed_ruling_is_noticed_at_the_next_one(chain: list[SealedRuling], keys: Path) -> None:
    (found,) = problems([*chain[:2], *chain[3:]], keys, head_of(chain))
    assert found.startswith("ruling 3 (approve `c1` by Ada")
    assert "a ruling was removed, added or moved there" in found


def test_the_end_that_was_cut_off_is_noticed_by_the_note_outside(
    chain: list[SealedRuling], keys: Path
) -> None:
    assert problems(chain[:-1], keys, head_of(chain)) == [
        "the ruling that was number 5 is missing: the database has 4 rulings"
    ]
    assert "is missing" in problems(chain, keys, None)[0]


def test_a_ruling_without_a_seal_or_with_a_strangers_is_named(chain: list[SealedRuling], keys: Path) -> None:
    added = SealedRuling(ruling(9, verb="approve"), None)
    (found,) = problems([*chain, added], keys, head_of(chain))
    assert found.startswith("ruling 6 (approve `c1` by Ada")
    assert found.endswith("is not signed")

    forged = make_chain(keys, [one.ruling for one in chain], by="other")
    assert all("not the workspace's" in text for text in problems(forged, keys, head_of(chain))[:LENGTH])

    seal = forged[-1].seal
    assert seal is not None
    own = chain[-1].seal
    assert own is not None
    pretended = SealedRuling(chain[-1].ruling, own.model_copy(update={"signature": seal.signature}))
    (found,) = problems([*chain[:-1], pretended], keys, head_of(chain))
    assert found.endswith("has a signature that does not verify")


def test_the_note_outside_is_taken_only_with_the_workspaces_signature(
    chain: list[SealedRuling], keys: Path, tmp_path: Path
) -> None:
    path = tmp_path / "rulings.json"
    assert read_head(path, keys=[keys / "own.pub"]) is None
    write_head(chain, path=path, private_key=keys / "own.key")
    assert read_head(path, keys=[keys / "own.pub"]) == head_of(chain)
    write_head(chain[:2], path=path, private_key=keys / "other.key")
    with pytest.raises(SignatureError):
        read_head(path, keys=[keys / "own.pub"])
