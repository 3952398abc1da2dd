"""Every error that Rung raises on purpose.

```
RungError
├── ConfigurationError        exit 2   usage or configuration
│   └── UnknownNameError      exit 2   a name outside a closed set, with "did you mean"
├── NotFoundError             exit 3   something that does not exist in the registry
├── RegistryError             exit 3   the registry, the store or the database cannot be used
│   ├── CorruptError          exit 3   bytes that do not have the digest they claim
│   ├── StorageFullError      exit 3   no space left for a write
│   └── SchemaError           exit 3   a database or document of a schema this version does not read
├── CheckpointError           exit 3   a checkpoint that cannot be accepted
├── BuildError                exit 4   export, quantization or lowering failed
├── ToolchainMissingError     exit 5   a toolchain is not installed or not usable here
├── EvaluationError           exit 6   the evaluation could not run
├── LoadError                 exit 7   an artifact that cannot be loaded here
└── RefusedError              exit 8   not approved, not lawful, or below the asked tier
    └── SignatureError        exit 8   a signature that does not verify
```

The first line of a message says what is wrong and where, with the value; `hint` gives the remedy and is
required.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import ClassVar, Final

_USER_IN_URL: Final = re.compile(r"(?<=://)[^/\s@`'\"]+(?=@)")
_SECRET_IN_QUERY: Final = re.compile(
    r"(?i)(?<=[?&])((?:password|passwd|token|access_token|api_key|sig|signature)=)[^&\s`'\"]+"
)


def without_credentials(text: str) -> str:
    """A text whose URLs have no user, password or secret parameter: what may be printed or logged."""
    return _SECRET_IN_QUERY.sub(r"\1***", _USER_IN_URL.sub("***", text))


class RungError(Exception):
    """Base class of every error that Rung raises.

    Args:
        message: What went wrong and where, with the offending value; no final period. Credentials in the URLs
            of it are left out.
        hint: The remedy, as an instruction to the reader.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(without_credentials(message))
        self.message = without_credentials(message)
        self.hint = without_credentials(hint)

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}"

    def to_json(self) -> dict[str, str]:
        """The error as a JSON object with the keys `code`, `message` and `hint`."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class ConfigurationError(RungError):
    """Wrong usage, or a configuration that cannot be read."""

    code = "configuration"
    exit_code = 2
    http_status = 400


class UnknownNameError(ConfigurationError):
    """A name outside a closed set; the hint offers the nearest known names."""

    code = "unknown_name"
    http_status = 404

    @classmethod
    def of(cls, kind: str, name: str, *, known: Iterable[str], where: str = "") -> UnknownNameError:
        """The error for `name` of a `kind` ("target", "recipe" …), with "did you mean" from `known`."""
        choices = sorted(known)
        near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
        place = f" in {where}" if where else ""
        if near:
            hint = "did you mean " + " or ".join(f"`{n}`" for n in near) + "?"
        elif choices:
            hint = f"known {kind}s: " + ", ".join(f"`{n}`" for n in choices[:20])
        else:
            hint = f"there is no {kind} yet"
        return cls(f"unknown {kind} `{name}`{place}", hint=hint)


class NotFoundError(RungError):
    """Something was asked for by name or digest and does not exist."""

    code = "not_found"
    exit_code = 3
    http_status = 404


class RegistryError(RungError):
    """The registry, the store or the database cannot be used."""

    code = "registry"
    exit_code = 3


class CorruptError(RegistryError):
    """Bytes that do not have the digest, size or form that they claim."""

    code = "corrupt"


class StorageFullError(RegistryError):
    """No space was left for a write; nothing half-written remains."""

    code = "storage_full"
    http_status = 507


class SchemaError(RegistryError):
    """A database or document whose schema is newer (or other) than this version reads."""

    code = "schema"


class CheckpointError(RungError):
    """A checkpoint that cannot be accepted: its configuration, weights or tokenizer."""

    code = "checkpoint"
    exit_code = 3
    http_status = 422


class BuildError(RungError):
    """Export, quantization or lowering failed."""

    code = "build"
    exit_code = 4


class ToolchainMissingError(RungError):
    """A toolchain or a package of it is not installed or not usable on this machine."""

    code = "toolchain_missing"
    exit_code = 5


class EvaluationError(RungError):
    """The evaluation could not run (a low score is a verdict, not an error)."""

    code = "evaluation"
    exit_code = 6


class LoadError(RungError):
    """An artifact that cannot be loaded on this host as it was evaluated."""

    code = "load"
    exit_code = 7
    http_status = 503


class RefusedError(RungError):
    """Refused by rule: not approved, not lawful, or below the tier that was asked for."""

    code = "refused"
    exit_code = 8
    http_status = 503


class SignatureError(RefusedError):
    """A signature that is missing, made with another key, or made over other bytes."""

    code = "signature"
