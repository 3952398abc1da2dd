"""The server's process: a bundle of the benchmark behind the very server that `rung serve` starts.

`rung serve` adds the choice of an artifact from a signed release before it, and nothing to a request.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.child import die_with_parent
from serving.http.server import open_socket, serve
from serving.http.service import create_service
from serving.node.host import this_host
from serving.node.load import load_bundle
from serving.node.open import make_node


def main(arguments: list[str]) -> None:
    """Serve the bundle in a directory: `DIRECTORY THREADS SLOTS CONTEXT`."""
    die_with_parent()
    path, (threads, slots, context) = Path(arguments[0]), (int(number) for number in arguments[1:4])
    listening = open_socket(host="127.0.0.1", port=0)
    model = load_bundle(path, host=this_host(), files="trust", threads=threads, slots=slots, context=context)
    serve(create_service(make_node(model)), listening)


if __name__ == "__main__":
    main(sys.argv[1:])
