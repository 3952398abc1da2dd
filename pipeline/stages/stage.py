"""What a stage of a build is, and its build key: the rule that resume, cache and staleness come from.

A key is the digest of everything that a stage's output depends on: its inputs' digests, its options, the
versions of the libraries that do the work, and the source of this project's own code for the stage. Same key,
same output.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pipeline.stages.closure import ROOT, import_closure
from registry.digest import Digest, digest_file, digest_tree, digest_value
from registry.value import Value

O_co = TypeVar("O_co", bound=Value, covariant=True)


@dataclass(frozen=True, slots=True)
class StageKey(Generic[O_co]):
    """The build key of one run of a stage, and the type of the output that is recorded under it."""

    stage: str
    digest: Digest
    output: type[O_co]


@dataclass(frozen=True, slots=True)
class Stage(Generic[O_co]):
    """A step of a build that has a key and a recorded output."""

    name: str
    work: str
    """`module:function` that does it, imported by workers alone; the module's import closure is the code that
    the stage's keys depend on."""
    output: type[O_co]
    needs: tuple[str, ...] = ()
    """Names of the stages whose outputs its keys and its request are made from. Names, because a stage that
    imported another would have that one's code in its keys."""

    def key(self, *, backend: Sequence[str] = (), **inputs: object) -> StageKey[O_co]:
        """The key of one run.

        Args:
            backend: Modules of the backend that does a part of the work.
            inputs: Everything else that the output depends on.

        Raises:
            NotFoundError: There is no such module.
        """
        return self.key_of(code_digest(*self.entries(*backend)), **inputs)

    def key_of(self, code: Digest, **inputs: object) -> StageKey[O_co]:
        """The key of one run whose code's digest is known, such as in a worker: its sources may be others."""
        digest = digest_value({"stage": self.name, "code": code, "inputs": inputs})
        return StageKey(self.name, digest, self.output)

    def entries(self, *backend: str) -> tuple[str, ...]:
        """The modules whose import closure is the stage's code, with those of a backend."""
        return (self.work.partition(":")[0], *backend)


@functools.cache
def code_digest(*entries: str) -> Digest:
    """The digest of the source of modules and of everything that they import within this project.

    Raises:
        NotFoundError: There is no such module.
    """
    return digest_closure(*entries, root=ROOT)


def digest_closure(*entries: str, root: Path) -> Digest:
    """The digest of an import closure as it is on disk now.

    Args:
        entries: Dotted names of modules.
        root: The directory that the packages are in.

    Raises:
        NotFoundError: There is no such module.
    """
    closure = import_closure(*entries, root=root)
    return digest_tree({name: digest_file(path) for name, path in closure.items()})
