"""The engine: continuous batching of generations over one session."""
