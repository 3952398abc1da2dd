"""The static form: plain ONNX graphs of fixed shapes for compilers that take nothing else, and their session.

`graph.py` writes the graphs, `session.py` runs them, `plan.py` is the file between the two.
"""
