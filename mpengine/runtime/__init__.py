"""Processes, pipes and shared memory: the thin effects around the core."""
