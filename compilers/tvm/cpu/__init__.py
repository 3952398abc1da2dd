"""TVM for CPUs: kernels written as TIR for x86-64 and AArch64, and the session that runs them."""
