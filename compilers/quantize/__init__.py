"""Checkpoint × recipe → variant: the one canonical file of codes and scales that every backend packs.

`source` reads a checkpoint's tensors one at a time; `rtn` and `gptq` choose codes; `canonical` writes the
file and reads it back as floats; `variant` ties them together. The form of the file is in
`registry/variant.py`, the place of each tensor in `compilers/model/weights.py`.
"""
