"""Shared values, the content store, the MLflow registry, signatures and errors: the lowest layer."""
