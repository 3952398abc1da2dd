"""Qualcomm's NPU: static graphs → HTP context binaries, through ONNX Runtime's QNN execution provider.

`provider.py` is the only door to Qualcomm's libraries, which never become part of an artifact. `linear.py`
writes integer products, `lower.py` compiles, `run.py` loads on a device, `rehearse.py` on an x86 machine.
"""
