"""Errors of the server: why a request is refused, with its HTTP status (400, 409, 503) and a remedy.

Where waiting may help, the answer has `Retry-After`.

```
RungError
├── ConfigurationError
│   └── RequestError           400 (or 403, 404, 405, 413, 415, 431, 505)   the request itself is wrong
├── RefusedError
│   └── UnavailableError       503   below the asked tier, or without evidence for the task
├── RegistryError
│   ├── InterruptedFetchError  (pull) the source does not answer; asking again may help
│   └── TooSlowError           (pull) the source answers too slowly for the pull to end
├── SessionMovedError          409   the session was answered by another artifact or tier so far
├── OverloadedError            503   no room in the queue
└── EngineStoppedError         503   shutting down, or broken
```
"""

from __future__ import annotations

from typing import Any, ClassVar

from registry.errors import ConfigurationError, RefusedError, RegistryError, RungError

Json = dict[str, Any]  # Any: whatever JSON can hold


class RequestError(ConfigurationError):
    """A request that is malformed or asks for something unsupported.

    Args:
        message: What is wrong and where, with the value.
        hint: The remedy.
        param: The parameter or header at fault.
        code: OpenAI's code for it, where there is one.
        status: HTTP status.
    """

    code = "invalid_request"

    def __init__(
        self, message: str, *, hint: str, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message, hint=hint)
        self.param = param
        self.openai_code = code
        self.status = status


class UnavailableError(RefusedError):
    """This node may not answer at the tier that was asked for.

    Args:
        message: The reason.
        hint: The remedy.
        retry_after_s: When asking again may help.
        task: Task type that was asked for; None: all.
        min_tier: Tier that was asked for.
        alternatives: What could answer instead, feasible here first.
    """

    code = "tier_unavailable"

    def __init__(
        self,
        message: str,
        *,
        hint: str,
        retry_after_s: int,
        task: str | None,
        min_tier: int,
        alternatives: list[Json] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        self.task = task
        self.min_tier = min_tier
        self.alternatives = alternatives or []

    def with_alternatives(self, alternatives: list[Json]) -> UnavailableError:
        """The same error, which names what could answer instead."""
        return UnavailableError(
            self.message,
            hint=self.hint,
            retry_after_s=self.retry_after_s,
            task=self.task,
            min_tier=self.min_tier,
            alternatives=alternatives,
        )


class InterruptedFetchError(RegistryError):
    """A source that does not answer, or has stopped in the midst of a file."""

    code = "interrupted"

    @classmethod
    def of(cls, where: str, cause: object) -> InterruptedFetchError:
        """The error of a fetch from `where`."""
        return cls(
            f"fetching `{where}` was interrupted: {cause}",
            hint="check the network and the source, then run the same command: it goes on where it stopped",
        )


class TooSlowError(RegistryError):
    """A source that answers, but so slowly that the pull would not end."""

    code = "too_slow"


class SessionMovedError(RungError):
    """A session that would change its artifact or tier without the caller's consent."""

    code = "session_moved"
    exit_code = 8
    http_status = 409


class OverloadedError(RungError):
    """The queue has no room."""

    code = "overloaded"
    http_status = 503
    retry_after_s: ClassVar[int] = 1

    @classmethod
    def of(cls, *, waiting: int, limit: int) -> OverloadedError:
        """The error of a queue in which `waiting` of `limit` sequences wait."""
        return cls(
            f"the queue is full: {waiting} sequences are waiting, the limit is {limit}",
            hint="ask again later, or send `X-Rung-On-Unavailable: wait`",
        )


class EngineStoppedError(RungError):
    """The engine takes no more generations."""

    code = "stopped"
    http_status = 503
    retry_after_s: ClassVar[int] = 5

    @classmethod
    def of(cls, cause: Exception | None) -> EngineStoppedError:
        """The error after a breakdown, or (None) while shutting down."""
        if cause is None:
            return cls("the server is shutting down", hint="ask another node")
        return cls(f"the engine has broken down: {cause}", hint="restart the server; see its log")


def status_of(error: Exception) -> int:
    """The HTTP status of an error."""
    if isinstance(error, RequestError):
        return error.status
    return error.http_status if isinstance(error, RungError) else 500


def openai_form(error: Exception) -> Json:
    """An error as OpenAI's clients expect it, with what Rung knows beside it under `rung`."""
    if not isinstance(error, RungError):
        return {
            "error": {
                "message": "internal error",
                "type": "server_error",
                "param": None,
                "code": "internal_error",
            }
        }
    status = status_of(error)
    rung: Json = {"code": error.code, "hint": error.hint}
    if retry_after_s(error) is not None:
        rung["retry_after_s"] = retry_after_s(error)
    if isinstance(error, UnavailableError):
        rung["alternatives"] = error.alternatives
    code, param = error.code, None
    if isinstance(error, RequestError):
        code, param = error.openai_code or error.code, error.param
    return {
        "error": {
            "message": error.message,
            "type": "invalid_request_error" if status < 500 else "server_error",
            "param": param,
            "code": code,
            "rung": rung,
        }
    }


def retry_after_s(error: Exception) -> int | None:
    """When asking again may help, in seconds; None: it will not."""
    value = getattr(error, "retry_after_s", None)
    return value if isinstance(value, int) else None
