"""Checks of a ladder before anything is built: its tasks, their data, and how many samples they give."""
