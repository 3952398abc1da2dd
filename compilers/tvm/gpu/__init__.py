"""GPUs: kernels written as TIR, compiled by TVM to machine code, launched through the driver's own interface.

The build side writes the kernels (`code.py`, `product.py`, `attention.py`, `elementwise.py`, collected in
`templates.py`), lists their launches (`program.py`), and makes machine code of them (`compile.py`, with the
tools that `tools.py` finds): a fatbin of cubins for CUDA, a code object for ROCm. An artifact is that file,
`launches.json` (`plan.py`) and the weights.

The node side (`session.py`, `cache.py`, `driver.py`) needs the GPU's driver library alone: no TVM, no CUDA
toolkit, no compiler. It holds no host code, so one artifact serves x86-64 and AArch64 hosts.

`opencl.py` and `rehearse.py` execute the very same kernels and launches on a machine without the GPU.

Kernels use no intrinsic of one vendor: no shuffles, no special functions, no half-precision type. What they
compute is the same program on every target, and what OpenCL on a CPU shows about them holds for all of them,
up to the machine code that a vendor's assembler made of it.
"""
