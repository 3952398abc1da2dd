"""How the build graph's jobs are run: local processes."""
