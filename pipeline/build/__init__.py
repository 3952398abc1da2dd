"""A build: from a ladder to a plan, a graph of work, and up-to-date cells."""
