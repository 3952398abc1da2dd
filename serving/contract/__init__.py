"""What a caller asks and a server promises: terms, promises, problems. No engine, no HTTP."""
