"""Optimal transport by Benamou and Brenier: the geodesic between two densities, with certified bounds of its cost."""
