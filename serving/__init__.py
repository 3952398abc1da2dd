"""The shim on a serving node: this machine, pull, load, generate, and the OpenAI-compatible server."""
