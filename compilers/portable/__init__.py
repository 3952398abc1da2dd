"""Portable artifacts: static ONNX graphs that only a node with the vendor's toolkit can compile."""
