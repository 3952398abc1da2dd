"""Executors: what runs the work of a build; worker processes on this machine, or a Ray cluster."""
