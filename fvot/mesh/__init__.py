"""Meshes: from points and cells to one rank's arrays."""

from .mesh import Mesh
from .numbering import Numbering

__all__ = ["Mesh", "Numbering"]
