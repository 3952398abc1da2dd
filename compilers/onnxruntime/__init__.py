"""ONNX Runtime: `lower` rewrites the interchange graph on the build machine, `run` runs it on the node."""
