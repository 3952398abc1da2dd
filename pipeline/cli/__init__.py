"""The command line: one file per verb; data on stdout, everything else on stderr."""
