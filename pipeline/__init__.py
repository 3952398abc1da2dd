"""The build graph, its executors, and the command line: the layer that sees everything."""
