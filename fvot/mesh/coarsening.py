"""Coarser meshes for multilevel methods: cells of agglomerates, whose faces are the sums of those
between them.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from .. import linalg
from . import patches
from .memory import AnyMesh
from .partition import local_faces

# least part of the faces between two agglomerates that counts as one, and of a distance on each
# side
LEAST = 0.05

LLOYD = 10  # sweeps that make agglomerates round


class Geometry(NamedTuple):
    """Cells and faces of a whole mesh in its numbering; the right cell of a boundary face is -1."""

    volume: np.ndarray
    centroid: np.ndarray
    left: np.ndarray
    right: np.ndarray
    surface: np.ndarray  # (dim, n_faces) area times normal
    face_center: np.ndarray

    @property
    def n_inner(self):
        return int((self.right >= 0).sum())

    @property
    def area(self):
        return np.linalg.norm(self.surface, axis=0)


class Part(NamedTuple):
    """The faces of an agglomerated mesh, as `partition.local_faces` takes them."""

    left: np.ndarray
    right: np.ndarray
    ends: np.ndarray


def build_agglomerate_mesh(mesh: AnyMesh, part: dict) -> AnyMesh:
    """The mesh of agglomerates of which this rank has that `part`, on the ranks of the finer one.

    It has operators, but no points.
    """
    return type(mesh)(mesh.ranks, part, names={"walls": (0,)}, quality=None)


def whole(mesh):
    """(the mesh's `Geometry`, [the cells of each rank]) on rank 0, None elsewhere. Collective."""
    own = mesh.cell_id[: mesh.n_cells]
    faces = np.flatnonzero(mesh.face_owned)
    right = np.where(mesh.right[faces] >= 0, mesh.cell_id[mesh.right[faces]], -1)
    mine = (
        own,
        mesh.volume,
        mesh.centroid,
        mesh.cell_id[mesh.left[faces]],
        right,
        (mesh.area * mesh.normal)[:, faces],
        mesh.face_center[:, faces],
    )
    parts = mesh.ranks.gather_to_root(mine)
    if parts is None:
        return None
    cells, volume, centroid, left, right, surface, center = (
        np.concatenate(part, axis=-1) for part in zip(*parts)
    )
    # the boundary comes last
    order = np.argsort(cells)
    inner = np.lexsort((right, left, right < 0))
    return (
        Geometry(
            volume[order],
            centroid[:, order],
            left[inner],
            right[inner],
            surface[:, inner],
            center[:, inner],
        ),
        [part[0] for part in parts],
    )


def coarser(fine, size):
    """(member (n_cells,), `Geometry`) of round agglomerates of about *size* neighbours."""
    member = rounded(fine, patches.grow(patches.adjacency(fine, len(fine.volume)), size))
    n = int(member.max()) + 1
    volume = np.bincount(member, fine.volume, n)
    centroid = np.stack([np.bincount(member, fine.volume * x, n) for x in fine.centroid]) / volume
    inner = fine.right >= 0
    beyond = np.where(fine.right >= 0, member[fine.right], -1)
    between = np.flatnonzero(inner & (member[fine.left] != beyond))
    a, b = member[fine.left[between]], beyond[between]
    key, pair = np.unique(np.minimum(a, b) * n + np.maximum(a, b), return_inverse=True)
    left, right = np.divmod(key, n)
    area = fine.area[between]
    sign = np.where(a < b, 1.0, -1.0)
    total = np.bincount(pair, area, len(key))
    summed = np.stack([np.bincount(pair, sign * s, len(key)) for s in fine.surface[:, between]])
    center = (
        np.stack([np.bincount(pair, area * x, len(key)) for x in fine.face_center[:, between]])
        / total
    )
    step = centroid[:, right] - centroid[:, left]
    normal = step / np.linalg.norm(step, axis=0)
    summed = normal * np.maximum((summed * normal).sum(axis=0), LEAST * total)
    walls = np.flatnonzero(~inner)
    return member, Geometry(
        volume,
        centroid,
        np.concatenate([left, member[fine.left[walls]]]),
        np.concatenate([right, np.full(len(walls), -1)]),
        np.concatenate([summed, fine.surface[:, walls]], axis=1),
        np.concatenate([center, fine.face_center[:, walls]], axis=1),
    )


def rounded(fine, member):
    """Agglomerates near those of member (n_cells,), as round as Voronoi cells, connected, numbered
    from 0.

    Lloyd's iteration on the graph: a cell goes over to the agglomerate of a neighbour if the
    centroid of that is nearer. So faces come to lie across the lines between centroids, as
    two-point fluxes need it.
    """
    inner = slice(fine.n_inner)
    cell = np.concatenate([fine.left[inner], fine.right[inner], np.arange(len(member))])
    beyond = np.concatenate([fine.right[inner], fine.left[inner], np.arange(len(member))])
    for _ in range(LLOYD):
        count = np.maximum(np.bincount(member, fine.volume), 1e-300)
        center = np.stack([np.bincount(member, fine.volume * x) for x in fine.centroid]) / count
        candidate = member[beyond]
        far = ((fine.centroid[:, cell] - center[:, candidate]) ** 2).sum(axis=0)
        order = np.lexsort((candidate, far, cell))
        nearest = order[np.searchsorted(cell[order], np.arange(len(member)))]
        if (candidate[nearest] == member).all():
            break
        member = candidate[nearest]
    return _connected(fine, member)


def _connected(fine, member):
    """The same agglomerates without the cells that have no way to the largest part of theirs; these
    join a neighbour's.
    """
    left = fine.left[: fine.n_inner]
    right = fine.right[: fine.n_inner]
    area = fine.area[: fine.n_inner]
    while True:
        same = member[left] == member[right]
        graph = sparse.coo_matrix(
            (np.ones(same.sum()), (left[same], right[same])), (len(member), len(member))
        )
        _, piece = connected_components(graph, directed=False)
        size = np.bincount(piece, fine.volume)
        owner = np.zeros(len(size), np.int64)
        owner[piece] = member
        order = np.lexsort((-size, owner))
        main = order[np.unique(owner[order], return_index=True)[1]]
        stray = ~np.isin(piece, main)
        ends = (
            np.concatenate([left, right]),
            np.concatenate([right, left]),
            np.concatenate([area, area]),
        )
        leaving = np.flatnonzero(stray[ends[0]] & ~stray[ends[1]])
        if not len(leaving):
            return np.unique(piece if stray.any() else member, return_inverse=True)[1].ravel()
        order = leaving[np.lexsort((-ends[2][leaving], ends[0][leaving]))]
        cells, first = np.unique(ends[0][order], return_index=True)
        member = member.copy()
        member[cells] = member[ends[1][order[first]]]


def owners(member, fine_owner, coarse, n_ranks):
    """The rank of each agglomerate: that of its first cell, unless a rank would have none."""
    first = np.unique(member, return_index=True)[1]
    owner = fine_owner[first]
    if len(np.unique(owner)) < n_ranks:
        owner = linalg.bisect(coarse.centroid, np.ones(len(owner)), n_ranks)
    return owner


def part(geometry, owner, rank):
    """The arrays of a rank, as `Mesh` takes them; a mesh of agglomerates has no points."""
    g = geometry
    own = np.flatnonzero(owner == rank)
    n = g.n_inner
    faces = Part(g.left, g.right, np.array([g.n_inner, len(g.left)]))
    ghosts, touch, left, right, ends = local_faces(faces, owner, own, own, rank)
    area = g.area[touch]
    normal = g.surface[:, touch] / area
    inner = touch < n
    near = ((g.face_center[:, touch] - g.centroid[:, g.left[touch]]) * normal).sum(axis=0)
    step = g.centroid[:, g.right[touch]] - g.centroid[:, g.left[touch]]
    distance = np.where(inner, np.linalg.norm(step, axis=0), 0)
    left_distance = np.where(
        inner, np.clip(near, LEAST * distance, (1 - LEAST) * distance), np.maximum(near, 0)
    )
    return dict(
        cell_id=np.concatenate([own, ghosts]),
        ghost_owner=owner[ghosts],
        volume=g.volume[own],
        center=g.centroid[:, own],
        centroid=g.centroid[:, own],
        left=left,
        right=right,
        area=area,
        normal=normal,
        face_center=g.face_center[:, touch],
        left_distance=left_distance,
        right_distance=distance - left_distance * inner,
        boundary_ends=ends,
        levels=own[None],
    )


def linear(member, fine, coarse):
    """The matrix (n_cells, n_agglomerates) of u_A + g_A . (x_K - x_A), g_A the least-squares
    gradient of the neighbours.
    """
    n = len(coarse.volume)
    dim = len(coarse.centroid)
    inner = slice(coarse.n_inner)
    a = np.concatenate([coarse.left[inner], coarse.right[inner]])
    b = np.concatenate([coarse.right[inner], coarse.left[inner]])
    step = coarse.centroid[:, b] - coarse.centroid[:, a]
    weight = 1 / (step**2).sum(axis=0)
    matrix = np.empty((n, dim, dim))
    for i in range(dim):
        for j in range(dim):
            matrix[:, i, j] = np.bincount(a, weight * step[i] * step[j], n)
    slope = np.einsum("aij,ja->ia", np.linalg.pinv(matrix, 1e-3, True)[a], weight * step)
    constant = sparse.csr_matrix(
        (np.ones(len(member)), (np.arange(len(member)), member)), (len(member), n)
    )
    matrix = constant
    for offset, s in zip(fine.centroid - coarse.centroid[:, member], slope):
        gradient = sparse.csr_matrix(
            (np.concatenate([s, -s]), (np.concatenate([a, a]), np.concatenate([b, a]))), (n, n)
        )
        matrix = matrix + sparse.diags(offset) @ constant @ gradient
    return matrix.tocsr()
