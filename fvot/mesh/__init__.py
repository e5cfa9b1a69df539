"""Meshes: from points and cells to one rank's arrays."""

from .examples import example_mesh
from .mesh import Mesh
from .numbering import Numbering

__all__ = ["Mesh", "Numbering", "example_mesh"]
