"""Multigrid of the package's own for implicit finite-volume steps, in single precision."""
