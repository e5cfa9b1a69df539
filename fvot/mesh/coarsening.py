"""Coarser meshes for multilevel methods: cells of agglomerates, whose faces are the sums of those
between them.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from .. import linalg
from ..arguments.types import Array, IntArray
from . import patches
from .memory import AnyMesh
from .partition import find_local_faces

# The least part of the faces between two agglomerates that counts as one face, and the least part
# of a distance on each side of it. Both keep areas and distances positive where shapes are odd.
MIN_FACE_PART = 0.05

# Sweeps of Lloyd's iteration that make agglomerates round.
ROUNDING_SWEEPS = 10


class Geometry(NamedTuple):
    """Cells and faces of a whole mesh in its numbering; the right cell of a boundary face is -1."""

    volume: Array
    centroid: Array
    left: IntArray
    right: IntArray
    surface: Array  # (dim, n_faces) area times normal
    face_center: Array

    @property
    def n_inner(self) -> int:
        """The number of faces that have two cells."""
        return int((self.right >= 0).sum())

    @property
    def area(self) -> Array:
        """(n_faces,)"""
        return np.linalg.norm(self.surface, axis=0)


class Part(NamedTuple):
    """The faces of an agglomerated mesh, as `find_local_faces` takes them."""

    left: IntArray
    right: IntArray
    ends: IntArray


def build_agglomerate_mesh(mesh: AnyMesh, part: dict[str, Any]) -> AnyMesh:
    """The mesh of agglomerates of which this rank has that `part`, on the ranks of the finer one.

    It has operators, but no points.
    """
    return type(mesh)(mesh.ranks, part, names={"walls": (0,)}, quality=None)


def gather_geometry(mesh: AnyMesh) -> tuple[Geometry, list[IntArray]] | None:
    """(the mesh's `Geometry`, [the cells of each rank]) on rank 0, None elsewhere. Collective."""
    own = mesh.cell_id[: mesh.n_cells]
    faces = np.flatnonzero(mesh.face_owned)
    local_left = mesh.left[faces]
    local_right = mesh.right[faces]
    left = mesh.cell_id[local_left]
    right = np.where(local_right >= 0, mesh.cell_id[local_right], -1)
    surface = mesh.area * mesh.normal
    mine = (
        own,
        mesh.volume,
        mesh.centroid,
        left,
        right,
        surface[:, faces],
        mesh.face_center[:, faces],
    )
    parts = mesh.ranks.gather_to_root(mine)
    if parts is None:
        return None

    whole = [np.concatenate(part, axis=-1) for part in zip(*parts)]
    cells, volume, centroid, left, right, surface, center = whole
    cell_order = np.argsort(cells)
    face_order = np.lexsort((right, left, right < 0))  # the boundary comes last
    geometry = Geometry(
        volume[cell_order],
        centroid[:, cell_order],
        left[face_order],
        right[face_order],
        surface[:, face_order],
        center[:, face_order],
    )
    return geometry, [part[0] for part in parts]


def agglomerate_cells(fine: Geometry, size: int) -> tuple[IntArray, Geometry]:
    """(member (n_cells,), `Geometry`) of round agglomerates of about *size* neighbours."""
    graph = patches.adjacency(fine, len(fine.volume))
    grown = patches.grow(graph, size)
    member = _round_agglomerates(fine, grown)
    n = int(member.max()) + 1
    volume = np.bincount(member, fine.volume, n).astype(float)
    moments = []
    for x in fine.centroid:
        moments.append(np.bincount(member, fine.volume * x, n))
    moment = np.stack(moments)
    centroid = moment / volume

    left, right, surface, center = _sum_faces(fine, member, centroid)
    walls = np.flatnonzero(fine.right < 0)
    beside_walls = member[fine.left[walls]]
    no_cell = np.full(len(walls), -1)
    wall_surface = fine.surface[:, walls]
    wall_center = fine.face_center[:, walls]
    coarse = Geometry(
        volume,
        centroid,
        np.concatenate([left, beside_walls]),
        np.concatenate([right, no_cell]),
        np.concatenate([surface, wall_surface], axis=1),
        np.concatenate([center, wall_center], axis=1),
    )
    return member, coarse


def _sum_faces(fine, member, centroid):
    """(left, right, surface, center) of the faces between agglomerates, the sums of the fine ones.

    A surface has the direction of the line between the centroids.
    """
    n = centroid.shape[1]
    beyond = np.where(fine.right >= 0, member[fine.right], -1)
    on_left = member[fine.left]
    between = np.flatnonzero((fine.right >= 0) & (on_left != beyond))
    a = on_left[between]
    b = beyond[between]
    pair_key = np.minimum(a, b) * n + np.maximum(a, b)
    key, pair = np.unique(pair_key, return_inverse=True)
    left, right = np.divmod(key, n)

    def add_up(rows: Array) -> Array:
        return np.stack([np.bincount(pair, row, len(key)) for row in rows])

    area = fine.area[between]
    total = np.bincount(pair, area, len(key))
    sign = np.where(a < b, 1.0, -1.0)
    surface = add_up(sign * fine.surface[:, between])
    center = add_up(area * fine.face_center[:, between]) / total

    step = centroid[:, right] - centroid[:, left]
    normal = step / np.linalg.norm(step, axis=0)
    projected = (surface * normal).sum(axis=0)
    size = np.maximum(projected, MIN_FACE_PART * total)
    return left, right, normal * size, center


def _round_agglomerates(fine, member):
    """Agglomerates near those of member (n_cells,), as round as Voronoi cells, connected, numbered
    from 0.

    Lloyd's iteration on the graph: a cell goes over to the agglomerate of a neighbour if the
    centroid of that is nearer. So faces come to lie across the lines between centroids, as
    two-point fluxes need it.
    """
    inner = slice(fine.n_inner)
    itself = np.arange(len(member))
    cell = np.concatenate([fine.left[inner], fine.right[inner], itself])
    neighbour = np.concatenate([fine.right[inner], fine.left[inner], itself])
    for _ in range(ROUNDING_SWEEPS):
        volume = np.maximum(np.bincount(member, fine.volume), 1e-300)
        moment = np.stack([np.bincount(member, fine.volume * x) for x in fine.centroid])
        center = moment / volume

        candidate = member[neighbour]
        step = fine.centroid[:, cell] - center[:, candidate]
        square = (step**2).sum(axis=0)
        order = np.lexsort((candidate, square, cell))
        nearest = order[np.searchsorted(cell[order], itself)]
        if (candidate[nearest] == member).all():
            break
        member = candidate[nearest]
    return _connect_agglomerates(fine, member)


def _connect_agglomerates(fine, member):
    """The same agglomerates, but cells that have no way to the largest part of theirs join that of
    a neighbour.
    """
    left = fine.left[: fine.n_inner]
    right = fine.right[: fine.n_inner]
    cell = np.concatenate([left, right])
    neighbour = np.concatenate([right, left])
    area = np.tile(fine.area[: fine.n_inner], 2)
    while True:
        piece = _number_pieces(left, right, member)
        size = np.bincount(piece, fine.volume)
        owner = np.zeros(len(size), np.int64)
        owner[piece] = member
        order = np.lexsort((-size, owner))
        _, first_of_owner = np.unique(owner[order], return_index=True)
        largest = order[first_of_owner]
        is_stray = ~np.isin(piece, largest)

        leaving = np.flatnonzero(is_stray[cell] & ~is_stray[neighbour])
        if not len(leaving):
            number = piece if is_stray.any() else member
            return np.unique(number, return_inverse=True)[1].ravel()
        largest_first = np.lexsort((-area[leaving], cell[leaving]))
        order = leaving[largest_first]
        cells, first = np.unique(cell[order], return_index=True)
        new_neighbour = neighbour[order[first]]
        member = member.copy()
        member[cells] = member[new_neighbour]


def _number_pieces(left, right, member):
    """The connected piece (n_cells,) of its agglomerate to which each cell belongs."""
    n = len(member)
    same = member[left] == member[right]
    ones = np.ones(same.sum())
    links = (left[same], right[same])
    graph = sparse.coo_matrix((ones, links), (n, n))
    _, piece = connected_components(graph, directed=False)
    return piece


def assign_owners(
    member: IntArray, fine_owner: IntArray, coarse: Geometry, n_ranks: int
) -> IntArray:
    """The rank of each agglomerate: that of its first cell, unless a rank would have none."""
    first = np.unique(member, return_index=True)[1]
    owner = fine_owner[first]
    if len(np.unique(owner)) < n_ranks:
        owner = linalg.bisect(coarse.centroid, np.ones(len(owner)), n_ranks)
    return owner


def build_part(geometry: Geometry, owner: IntArray, rank: int) -> dict[str, Any]:
    """The arrays of a rank, as `Mesh` takes them; a mesh of agglomerates has no points."""
    n = geometry.n_inner
    own = np.flatnonzero(owner == rank)
    ends = np.array([n, len(geometry.left)])
    all_faces = Part(geometry.left, geometry.right, ends)
    local = find_local_faces(all_faces, owner, own, own, rank)

    touching = local.faces
    left = geometry.left[touching]
    right = geometry.right[touching]
    area = geometry.area[touching]
    normal = geometry.surface[:, touching] / area
    face_center = geometry.face_center[:, touching]

    is_inner = touching < n
    step = geometry.centroid[:, right] - geometry.centroid[:, left]
    distance = np.where(is_inner, np.linalg.norm(step, axis=0), 0)
    to_face = face_center - geometry.centroid[:, left]
    height = (to_face * normal).sum(axis=0)
    least = MIN_FACE_PART * distance
    most = (1 - MIN_FACE_PART) * distance
    inner_height = np.clip(height, least, most)
    left_distance = np.where(is_inner, inner_height, np.maximum(height, 0))
    return dict(
        cell_id=np.concatenate([own, local.ghosts]),
        ghost_owner=owner[local.ghosts],
        volume=geometry.volume[own],
        center=geometry.centroid[:, own],
        centroid=geometry.centroid[:, own],
        left=local.left,
        right=local.right,
        area=area,
        normal=normal,
        face_center=face_center,
        left_distance=left_distance,
        right_distance=distance - left_distance * is_inner,
        boundary_ends=local.ends,
        levels=own[None],
    )


def build_interpolation(member: IntArray, fine: Geometry, coarse: Geometry) -> sparse.csr_matrix:
    """The matrix (n_cells, n_agglomerates) of u_A + g_A . (x_K - x_A), g_A the least-squares
    gradient of the neighbours.
    """
    n = len(coarse.volume)
    n_fine = len(member)
    dim = len(coarse.centroid)
    inner = slice(coarse.n_inner)
    a = np.concatenate([coarse.left[inner], coarse.right[inner]])
    b = np.concatenate([coarse.right[inner], coarse.left[inner]])

    step = coarse.centroid[:, b] - coarse.centroid[:, a]
    weight = 1 / (step**2).sum(axis=0)
    normal_matrix = np.empty((n, dim, dim))
    for i in range(dim):
        for j in range(dim):
            entry = weight * step[i] * step[j]
            normal_matrix[:, i, j] = np.bincount(a, entry, n)
    inverse = np.linalg.pinv(normal_matrix, 1e-3, True)
    slope = np.einsum("aij,ja->ia", inverse[a], weight * step)

    ones = np.ones(n_fine)
    constant = sparse.csr_matrix((ones, (np.arange(n_fine), member)), (n_fine, n))
    matrix = constant
    row = np.concatenate([a, a])
    column = np.concatenate([b, a])
    offsets = fine.centroid - coarse.centroid[:, member]
    for offset, s in zip(offsets, slope):
        entries = np.concatenate([s, -s])
        gradient = sparse.csr_matrix((entries, (row, column)), (n, n))
        matrix = matrix + sparse.diags(offset) @ constant @ gradient
    return matrix.tocsr()
