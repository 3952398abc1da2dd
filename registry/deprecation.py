"""Deprecation warnings: what Rung itself is about to change or remove.

Deprecations of other packages are reported by the tests and fail none of them; these do fail (the filters in
`pyproject.toml`).
"""

from __future__ import annotations


class RungDeprecationWarning(FutureWarning):
    """Something of Rung that a later version changes or removes; the message says what to use instead.

    A `FutureWarning`, since Python shows those to whoever runs `rung`, and hides a `DeprecationWarning`.
    """
