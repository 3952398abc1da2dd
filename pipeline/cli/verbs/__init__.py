"""The commands of `rung`: one file each. A new file here is a new command (`pipeline/cli/discover.py`)."""
