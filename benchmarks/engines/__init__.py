"""The benchmarked engines: Rung's artifacts and their alternatives, one file each."""
