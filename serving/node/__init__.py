"""A serving node: its host, its directory, pulling and loading artifacts."""
