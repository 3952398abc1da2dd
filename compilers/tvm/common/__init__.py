"""What the CPU and GPU halves of the TVM backend share: weight forms, batches, the compiled library."""
