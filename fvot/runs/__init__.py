"""Runs through time: the one loop, what is recorded, checkpoints, results."""
