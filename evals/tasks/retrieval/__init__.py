"""Retrieval: from notes that resemble each other to the one that is asked for."""
