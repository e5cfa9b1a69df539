"""Meshes: from points and cells to one rank's arrays."""
from .mesh import Mesh

__all__ = ["Mesh"]
