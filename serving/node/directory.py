"""A node's directory on disk: what a pull fills and `rung serve` loads from, each place with a name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matrices.releases.files import check_name, check_named, read_release
from matrices.releases.release import Release
from matrices.releases.revocations import REVOCATIONS_NAME, Revocations, read_revocations
from registry.errors import ConfigurationError, NotFoundError, RungError
from serving.node.memory import read_memory


@dataclass(frozen=True, slots=True)
class NodeDirectory:
    """The places below one directory; none needs to exist yet."""

    root: Path

    @property
    def releases(self) -> Path:
        """One directory for each release, by name."""
        return self.root / "releases"

    @property
    def store(self) -> Path:
        """The bytes, by digest (`registry/store.py`)."""
        return self.root / "store"

    @property
    def bundles(self) -> Path:
        """One directory for each artifact, of links into the store."""
        return self.root / "bundles"

    @property
    def partial(self) -> Path:
        """Blobs that are not complete; the next pull goes on with them."""
        return self.root / "partial"

    @property
    def servers(self) -> Path:
        """One file for each server that runs from here (`serving/node/running.py`)."""
        return self.root / "servers"

    @property
    def trusted_key(self) -> Path:
        """The public key that was given at the pull, in PEM form."""
        return self.root / "trusted.pem"

    @property
    def revocations(self) -> Path:
        """The signed list of artifacts that must not be served any more, as of the last pull."""
        return self.root / REVOCATIONS_NAME

    def read_revocations(self, *, key: Path | None = None) -> Revocations:
        """The revocation list of the last pull, verified; an empty one if none was ever pulled.

        Raises:
            SignatureError: It is not signed with the key.
        """
        return read_revocations(self.revocations, public_key=key or self.trusted_key)

    def release(self, name: str) -> Path:
        """Where a release is kept."""
        return self.releases / check_name(name)

    def bundle(self, artifact: str) -> Path:
        """Where an artifact is kept, by its digest."""
        return self.bundles / artifact.removeprefix("sha256:")

    def find_bundle(self, artifact: str) -> Path:
        """Where an artifact is kept that was pulled.

        Raises:
            NotFoundError: It was not pulled.
        """
        path = self.bundle(artifact)
        if not path.is_dir():
            raise NotFoundError(
                f"artifact `{artifact}` is not in `{self.root}`",
                hint="pull it: `rung pull … --artifact`",
            )
        return path

    def read_release(
        self, name: str | None = None, *, family: str | None = None, key: Path | None = None
    ) -> Release:
        """A release of this directory, verified, and not older than the one that was pulled last.

        Args:
            name: None: the one that was pulled last. In a directory that does not remember a pull: the newest
                by version, of those that verify.
            family: Only a release of this family; None: of any.
            key: Public key to trust; None: the one given at the pull.

        Raises:
            NotFoundError: There is none, or not that one.
            ConfigurationError: There is no key to trust.
            SignatureError: The release is not signed with the key.
            RefusedError: It has another name than its directory, or is older than one that this node has had.
        """
        memory = read_memory(self.root)
        known = self._release_names()
        if not known:
            raise NotFoundError(
                f"no release in `{self.root}`", hint=f"`rung pull RELEASE --out {self.root}` brings one"
            )
        if name is not None and name not in known:
            raise NotFoundError(f"no release `{name}` in `{self.root}`", hint=f"it holds {', '.join(known)}")
        trusted = check_key(key or self.trusted_key)
        name = name or memory.current_of(family)
        release = self._read(name, key=trusted) if name in known else self._newest(known, family, key=trusted)
        if family is not None and release.family != family:
            raise NotFoundError(
                f"release `{release.name}` in `{self.root}` is of `{release.family}`, not of `{family}`",
                hint="pull a release of that family",
            )
        memory.check_not_older(release)
        return release

    def _release_names(self) -> list[str]:
        """The releases that are there; what a pull was writing when it was killed is none of them."""
        found = self.releases.iterdir() if self.releases.is_dir() else ()
        return sorted(path.name for path in found if path.is_dir() and not path.name.startswith("."))

    def _read(self, name: str, *, key: Path) -> Release:
        return check_named(read_release(self.release(name), public_key=key), name, where=f"`{self.root}`")

    def _newest(self, names: list[str], family: str | None, *, key: Path) -> Release:
        """The newest of several releases: those of a key that was replaced do not count.

        Raises:
            NotFoundError: None is of the family.
            RungError: None verifies; why the last by name does not.
        """
        found: list[Release] = []
        problem: RungError | None = None
        for name in names:
            try:
                found.append(self._read(name, key=key))
            except RungError as error:
                problem = error
        if not found and problem is not None:
            raise problem
        asked = [one for one in found if family in (None, one.family)]
        if not asked:
            raise NotFoundError(
                f"no release of `{family}` in `{self.root}`", hint=f"it holds {', '.join(names)}"
            )
        return max(asked, key=lambda one: (one.version, one.created_at, one.name))


def check_key(path: Path) -> Path:
    """A public key's path, which must exist.

    Raises:
        ConfigurationError: It does not.
    """
    if not path.is_file():
        raise ConfigurationError(f"no public key at `{path}`", hint="give the release manager's with `--key`")
    return path
