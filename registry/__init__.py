"""The words of Rung, the content store, MLflow, signatures and errors: the lowest layer."""
