"""The Jinja sandbox in which chat templates are rendered, and the process that it runs in.

Options, filters and globals are those of transformers (`transformers/utils/chat_template_utils.py`), whose
output is the reference. A template is a stranger's code: the sandbox keeps it from Python's internals, and
running in a process of its own (`template_process.py`) bounds its time and memory, which no sandbox does
(`9**9**9`, `'a' * 10**10`, loops in loops).

As a program it reads requests from stdin, each a length and a pickle of source and variables, and answers
each on stdout with a status, a length and a text in UTF-8.
"""

from __future__ import annotations

import json
import pickle
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import lru_cache

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MEMORY_BYTES = 512 << 20
"""Address space of the process."""
TEXT_BYTES = 16 << 20
"""Longest prompt that a template may write."""
CPU_S = 6
"""Processor time of one rendering, for a process whose parent is gone; the parent's own limit is shorter."""
LENGTH = struct.Struct("<Q")
READY, RENDERED, REFUSED = b"r", b"t", b"e"


def render(source: str, variables: Mapping[str, object]) -> str:
    """The text of a template.

    Raises:
        Exception: Whatever the template raises.
    """
    text = _compile(source).render(**variables)
    if len(text) > TEXT_BYTES:
        raise ValueError(f"it writes {len(text)} characters")
    return text


def main() -> None:
    """Answer requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this ends
    datetime.now().astimezone()  # reads the time zone while memory is still there for it
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    read, write = sys.stdin.buffer, sys.stdout.buffer
    write.write(READY)
    write.flush()
    while len(head := read.read(LENGTH.size)) == LENGTH.size:
        request = read.read(LENGTH.unpack(head)[0])
        _allow_cpu()
        status, text = _answer(request)
        data = text.encode("utf-8", "surrogatepass")
        write.write(status + LENGTH.pack(len(data)) + data)
        write.flush()


def _answer(request: bytes) -> tuple[bytes, str]:
    try:
        source, variables = pickle.loads(request)  # noqa: S301  the parent made it
        return RENDERED, render(source, variables)
    except RecursionError:
        return REFUSED, "it calls itself too deeply"
    except MemoryError:
        return REFUSED, f"it takes more than {MEMORY_BYTES >> 20} MiB"
    except Exception as error:  # noqa: BLE001  a stranger's code raises what it likes
        return REFUSED, str(error)[:2000]


def _allow_cpu() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + CPU_S, hard))


@lru_cache(maxsize=32)
def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    globals_: dict[str, object] = {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "dict": _Dict(),
        "namespace": _SafeNamespace,
    }
    environment.globals.update(globals_)
    return environment.from_string(source)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without Jinja's HTML escapes."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


class _Generation(Extension):
    """Accepts `{% generation %}…{% endgeneration %}`, which marks the assistant's text for training."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own interface

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Keep the body and drop the tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict` without its attributes."""

    def __call__(self, *args: Iterable[tuple[str, object]], **kwargs: object) -> dict[str, object]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Iterable[str]) -> dict[str, object]:
        """As `dict.fromkeys`."""
        return dict.fromkeys(*args)


class _SafeNamespace(Namespace):
    """Jinja's `namespace` without names that lead into Python's internals."""

    def __init__(self, /, *args: Iterable[tuple[str, object]], **kwargs: object) -> None:
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _SafeNamespace._check(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: object) -> None:
        _SafeNamespace._check(name)
        Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"a chat template must not store {name!r} on a namespace")


if __name__ == "__main__":
    main()
