"""The model-hardware compatibility matrix: cells, evidence, approval, releases and their resolution."""
