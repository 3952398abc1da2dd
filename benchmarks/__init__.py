"""Speed, memory and overhead of Rung's artifacts as ratios to named alternatives, side by side in one run.

`python -m benchmarks.run` makes one random-weight checkpoint (`checkpoint.py`), builds everything from
it, each step in its own process (`build.py`, `products.py`), starts one worker process per engine
(`worker.py`, `engines/`), asks them in turn (`rounds.py`), measures `rung serve`'s server against a bare
session (`overhead.py`), compares the numbers with the goals (`goals.py`) and writes a table, a JSON file
and a page (`report.py`, `page.py`).
"""
