"""Names of checkpoints: those that Rung gives, and those that MLflow has already."""

from __future__ import annotations

import re
from typing import Final

from registry.errors import ConfigurationError

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
ALIAS: Final = re.compile(r"(?!latest$|v\d+$)[A-Za-z][A-Za-z0-9_-]{0,127}")


def check_name(kind: str, name: str, *, pattern: re.Pattern[str] = NAME) -> None:
    """Refuse a name that Rung would give.

    Args:
        kind: `checkpoint name`, `family` or `alias`.
        name: The name.
        pattern: What it must be.

    Raises:
        ConfigurationError: It is not allowed.
    """
    if not pattern.fullmatch(name):
        odd = dict.fromkeys(one for one in name if not re.fullmatch(r"[A-Za-z0-9._-]", one))
        because = f": it has {', '.join(repr(one) for one in odd)}" if odd else ""
        option = {"checkpoint name": "--name", "family": "--family", "alias": "--alias"}[kind]
        raise ConfigurationError(
            f"`{name}` cannot be a {kind}{because}",
            hint=f"give another with {option}: letters, digits, `-`, `_` (and `.` in names), at most 128",
        )


def check_foreign(name: str) -> None:
    """Refuse a name in MLflow that cannot be asked for.

    It may have any character that prints; quotes of both kinds would end MLflow's filters.

    Raises:
        ConfigurationError: It cannot be taken.
    """
    odd = next((one for one in name if not one.isprintable()), None)
    if odd is not None or ("'" in name and '"' in name):
        what = f"the character {odd!r}" if odd is not None else "quotes of both kinds"
        raise ConfigurationError(
            f"{name!r} cannot be taken from MLflow: it has {what}",
            hint="rename it there: `MlflowClient().rename_registered_model(…)`",
        )
