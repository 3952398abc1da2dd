"""TVM: the interchange graph → one shared library of compiled functions, run by TVM's small C++ runtime.

The build side reads the graph's structure (`network.py`), writes its kernels as TIR (`code.py`,
`linear.py`, `integer.py`, `elementwise.py`, `attention.py`, `pack.py`), lays the weights out
(`parameters.py`), ties them together as one Relax function for one token and one for any number of them
(`program.py`), and compiles all that (`lower.py`). The node side (`run.py`, `session.py`, `cache.py`,
`weights.py`, `library.py`) needs `tvm_ffi` and the file `libtvm_runtime.so` alone, never the compiler. Both
sides share `plan.py`: which weights go through which pack function, in which order.

A batch is *ragged*: all tokens of a call stand in one list, each with its row of the cache and its
position. Matrix products see [tokens, width], attention looks a token's own row up. So prefill, decode and
mixtures of both are one code without padding, and no result depends on what runs beside it.

GPUs have kernels and a session of their own, in `gpu/`.
"""
