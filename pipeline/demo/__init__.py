"""The demo family: three small checkpoints of one line, and the scripts that trained them on one core."""
