"""The command line: one file per command in `verbs/`; data on stdout, everything else on stderr."""
