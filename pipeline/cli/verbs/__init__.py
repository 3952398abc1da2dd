"""The commands of `rung`: one file each, found by `pipeline/cli/discover.py`. A new file here is a new command."""
