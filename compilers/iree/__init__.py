"""IREE, the compiler of the OpenXLA lineage: static graphs → one module of machine code for many targets.

Build side: `module.py` imports the decode and the prefill graph (`compilers/static/`) as two functions over
shared parameters, `target.py` says what a target is to IREE, `lower.py` compiles. Node side: `device.py`
opens the module with the canonical weights file as its parameters, `run.py` makes a session of it and
`rehearse.py` the same on a stand-in. `binaries.py` finds the machine code in a module, for the proof.
"""
