"""The shim on a serving node: what this machine is, pull, load, generate, and the OpenAI-compatible server."""
