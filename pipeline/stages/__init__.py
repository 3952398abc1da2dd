"""The stages of a build: one module per stage with its request, its output and its key.

`work/` holds what a worker process does for each; the parent process imports none of it.
"""
