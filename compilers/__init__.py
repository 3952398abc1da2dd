"""Export, quantization and lowering on the build machine; the runtimes on the target machine."""
