"""What one worker process does: one file per stage, request in, output out, bytes into the store."""
