"""The agent task types that ship with Rung, as lm-eval groups.

Each task type is one folder and one lm-eval group of two tasks: a multiple choice and a generation.
`catalog.py` lists them; each folder's `scene.py` writes its samples, `generate.py` puts them on disk.

`dataset_kwargs.data_files.test` in a YAML names a file next to that YAML. The path is relative so that the
folder can move; the loader makes it absolute before it builds the task.

The samples are made up of about 200 English words separated by spaces, so that a checkpoint of half a million
parameters can be good at them and a smaller one visibly less so. They measure the pipeline, not the world.
"""
