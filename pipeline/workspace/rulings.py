"""The rulings of a workspace: verify their chain, make new ones, and note the latest outside the database."""

from __future__ import annotations

from matrices.ledger import query
from matrices.ledger.db import Database
from matrices.ledger.ledger import Ledger, RulingKeys
from matrices.releases.ruling_chain import broken_chain, chain_problems, read_head, write_head
from registry.errors import SchemaError, SignatureError
from registry.workspace import Workspace


def ruling_problems(workspace: Workspace, database: Database) -> list[str]:
    """What is wrong with the signed chain of rulings, one sentence each."""
    keys = [workspace.public_key]
    try:
        head = read_head(workspace.rulings_head, keys=keys)
    except (SignatureError, SchemaError) as error:
        return [error.message]
    return chain_problems(query.sealed_rulings(database), head=head, keys=keys)


def check_rulings(workspace: Workspace, database: Database) -> None:
    """Check that the rulings are those that were signed.

    Raises:
        CorruptError: One was changed, removed, added or moved outside Rung, or was never signed.
    """
    if problems := ruling_problems(workspace, database):
        raise broken_chain(problems)


def ruling_ledger(workspace: Workspace, database: Database) -> Ledger:
    """The writer of a database whose chain of rulings is whole, with the key that signs new ones.

    Raises:
        CorruptError: See `check_rulings`.
        StorageFullError: No space is left.
    """
    check_rulings(workspace, database)
    if not workspace.rulings_head.exists():
        note_rulings(workspace, database)
    return Ledger(database, keys=RulingKeys(workspace.private_key, workspace.public_key))


def sign_rulings(workspace: Workspace, database: Database, *, who: str, why: str) -> int:
    """Sign rulings that were made without a signature, such as those of earlier versions; how many.

    Raises:
        ConfigurationError: `who` or `why` is empty.
        CorruptError: Something else is wrong with the chain.
    """
    others = [text for text in ruling_problems(workspace, database) if not text.endswith("is not signed")]
    if others:
        raise broken_chain(others)
    keys = RulingKeys(workspace.private_key, workspace.public_key)
    count = Ledger(database, keys=keys).sign_rulings(who=who, why=why)
    note_rulings(workspace, database)
    return count


def note_rulings(workspace: Workspace, database: Database) -> None:
    """Note the latest ruling outside the database, in a signed file."""
    write_head(query.sealed_rulings(database), path=workspace.rulings_head, private_key=workspace.private_key)
