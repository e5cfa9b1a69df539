"""Runs through time: the one loop, its records, checkpoints and results."""
