"""What a worker process does for each stage, imported by workers alone: it needs the heavy libraries."""
