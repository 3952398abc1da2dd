"""TVM for CPUs: kernels in TIR for x86-64 (AVX2, AVX-512) and AArch64 (NEON), and their session."""
