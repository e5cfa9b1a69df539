"""Means and integrals of functions over the cells and faces of a mesh, by Gauss rules."""

import numpy as np

from ..arguments.functions import call_function
from ..arguments.types import Array, IntArray, PointFunction
from . import quadrature
from .coordinates import POWER
from .memory import AnyMesh, kept_with_mesh


@kept_with_mesh
def find_pieces(mesh: AnyMesh) -> list[quadrature.Pieces]:
    """The simplices and boxes that this rank's cells consist of."""
    spacing = None if mesh.block is None else mesh.block.spacing
    power = POWER[mesh.coordinates]
    return quadrature.split_cells(
        mesh.points, mesh.kind, mesh.start, mesh.corners, mesh.centroid, spacing, power
    )


def divide_cells(mesh: AnyMesh, k: int) -> tuple[Array, Array, IntArray]:
    """(centroids (dim, n), volumes (n,), cells (n,)) of at least k parts of each of this rank's
    cells.
    """
    if k == 1:
        return mesh.centroid, mesh.volume, np.arange(mesh.n_cells)
    return quadrature.split_into_parts(find_pieces(mesh), k)


def average_over_cells(mesh: AnyMesh, f: PointFunction, degree: int, halvings: int = 0) -> Array:
    """Averages (..., n_cells) of f(x), exact for polynomials of that degree; collective.

    halvings : how many times the cells are halved along each edge before
    """
    with mesh.ranks.raising_together():
        return quadrature.average(find_pieces(mesh), mesh.n_cells, f, degree, halvings)


def log_mean_exp_over_cells(mesh: AnyMesh, f: PointFunction, degree: int = 8) -> Array:
    """Log (n_cells,) of the cell averages of e^f(x), for any size of f; collective.

    -D log_mean_exp_over_cells(mesh, -V/D) is a cell-mean potential.
    """
    with mesh.ranks.raising_together():
        return quadrature.compute_log_mean_exp(find_pieces(mesh), mesh.n_cells, f, degree)


def average_over_faces(mesh: AnyMesh, f: PointFunction, degree: int = 3) -> Array:
    """Averages (..., n_faces) of f(x); 0 on faces without an area, at the radius 0, where f may
    not be defined. Collective.
    """
    power = POWER[mesh.coordinates]
    has_area = mesh.area > 0 if power else slice(None)
    vertices = mesh.vertices[:, has_area]
    with mesh.ranks.raising_together():
        means = sum(
            weight * np.asarray(call_function(f, "the function", x))
            for x, weight in quadrature.list_face_points(mesh.points, vertices, degree, power)
        )
    if not power:
        return means
    averages = np.zeros((*means.shape[:-1], mesh.n_faces))
    averages[..., has_area] = means
    return averages


def circulate_around_faces(mesh: AnyMesh, f: PointFunction, degree: int = 3) -> Array:
    """Integrals (n_faces,) of the vector f(x) (3, n) along the edges of each face; collective.

    They run counter-clockwise as seen from the tip of the face's normal.
    """
    with mesh.ranks.raising_together():
        return quadrature.integrate_along_edges(mesh.points, mesh.vertices, f, degree)
