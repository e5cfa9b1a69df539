"""`Mesh`: this rank's part of a mesh as plain, read-only numpy arrays."""
from functools import cached_property, partial

import numpy as np

from .. import parallel
from ..errors import InputError
from . import build, cartesian, faces, partition, patches, quadrature, quality, read


class Mesh:
    """A mesh, dealt to the ranks of a communicator; the arrays hold this rank's own cells and the faces that touch them.

    Made by `interval`, `rectangle`, `box`, `triangles`, `tetrahedra`, `voronoi`, `read` and `from_cells`, which take

    comm : MPI communicator that shares the mesh; None for all ranks.
    patches : "auto", "none", a number of cells, or an array (n_cells_global,): the patches on which densities of optimal
        transport live. "auto" is single cells on Cartesian meshes, pairs on triangles, else 2^dim cells.
    strict : refuse (`MeshError`) a mesh with faces of signed distance <= 0; False clips these, with a warning.

    Attributes, lengths in the units of the points:

    dim, n_cells, n_cells_global, n_faces, n_inner : numbers; n_inner counts the faces that have two cells
    volume (n_cells,), center (dim, n_cells) : measure |K| and point x_K of each cell: circumcentres of simplices, generators
        of Voronoi cells, else centroids; `centroid` (dim, n_cells) is always the centroid
    left, right (n_faces,) : cells on both sides; numbers from n_cells on are ghosts, right is -1 on the boundary
    area (n_faces,), normal (dim, n_faces) : measure and unit normal, from left to right, or outwards
    distance, left_distance, right_distance (n_faces,) : from x_K to x_L (to the face on the boundary) along the normal
    left_offset, right_offset (dim, n_faces) : from the cells' centroids to the face's centroid
    boundary : {name: slice}, the boundary faces of each name
    cell_id (n_local,) : number in the file of each cell, own cells first, then ghosts
    patch (n_cells,), levels (n_levels, n_cells) : global numbers of the patch, and of ever larger patches, of each cell
    """

    def __init__(self, ranks, part, *, names, quality, block=None):
        self.ranks = ranks
        self.block = block
        self._quality = quality
        for name, array in part.items():
            setattr(self, name, _frozen(array))
        self.dim, self.n_cells = self.center.shape
        self.n_local = len(self.cell_id)
        self.n_faces = len(self.area)
        ends = part["boundary_ends"]
        self.n_inner = int(ends[1])
        self.boundary = {name: slice(int(a), int(b)) for name, a, b in zip(names, ends[1:], ends[2:], strict=False)}
        self.distance = _frozen(self.left_distance + self.right_distance)
        self.patch = self.levels[0]
        self.n_cells_global = int(ranks.sum(self.n_cells))
        self.exchange = parallel.Exchange.ghosts(ranks, self.cell_id[:self.n_cells], self.cell_id[self.n_cells:],
                                                 self.ghost_owner)

    # ---- how meshes are made -----------------------------------------------------------------------------------------

    @classmethod
    def interval(cls, a, b, n, *, periodic=False, comm=None, patches="auto", strict=True):
        """n equal cells between a and b; the ends are named "left" and "right"."""
        return cls._cartesian(a, b, (n,), periodic, comm, patches)

    @classmethod
    def rectangle(cls, lower, upper, shape, *, periodic=False, comm=None, patches="auto", strict=True):
        """shape = (nx, ny) equal rectangles; sides "left", "right", "bottom", "top"; *periodic*: one bool or one per axis.

        Cells are numbered in C order: a gathered u has `u.reshape(shape)[i, j]` at the i-th place in x.
        """
        return cls._cartesian(lower, upper, _shape(shape, 2), periodic, comm, patches)

    @classmethod
    def box(cls, lower, upper, shape, *, periodic=False, comm=None, patches="auto", strict=True):
        """shape = (nx, ny, nz) equal boxes; sides "left", "right" (x), "front", "back" (y), "bottom", "top" (z)."""
        return cls._cartesian(lower, upper, _shape(shape, 3), periodic, comm, patches)

    @classmethod
    def triangles(cls, lower, upper, n, *, comm=None, patches="auto", strict=True):
        """Acute isosceles triangles in shifted rows, n along x; sides named as those of `rectangle`."""
        return cls._dealt(lambda: _in_box(*build.triangles(lower, upper, n), lower, upper), comm, patches, strict)

    @classmethod
    def tetrahedra(cls, lower, upper, n, *, comm=None, patches="auto", strict=True):
        """Sommerville's tetrahedra, twelve to each of n cubes along x; sides named as those of `box`."""
        def make():
            points, blocks, center = build.tetrahedra(lower, upper, n)
            return _in_box(points, blocks, lower, upper, center)
        return cls._dealt(make, comm, patches, strict)

    @classmethod
    def voronoi(cls, lower, upper, n_cells, seed=0, *, comm=None, patches="auto", strict=True):
        """Centroidal Voronoi polygons of a rectangle, from random generators; sides named as those of `rectangle`."""
        def make():
            points, blocks, center = build.voronoi(lower, upper, n_cells, seed)
            return _in_box(points, blocks, lower, upper, center)
        return cls._dealt(make, comm, patches, strict)

    @classmethod
    def read(cls, path, *, comm=None, patches="auto", strict=True):
        """A Gmsh (.msh) or VTK (.vtk, .vtu) file; Gmsh's physical names become the names of the boundary.

        Raises `InputError` for a file that cannot be read, `MeshError` for a mesh that cannot be used.
        """
        return cls._dealt(lambda: read.read(path), comm, patches, strict)

    @classmethod
    def from_cells(cls, points, cells, *, boundary=None, center=None, comm=None, patches="auto", strict=True):
        """A mesh from points (dim, n) and cells [(type, connectivity), ...], as meshio names them; polygons as lists.

        boundary : {name: points (width, n) of each face}; the rest is called "boundary"
        center : points x_K (dim, n_cells), where circumcentres and centroids are not what is wanted
        """
        return cls._dealt(lambda: (_points(points), cells, _named(boundary), center), comm, patches, strict)

    @classmethod
    def _cartesian(cls, lower, upper, shape, periodic, comm, rule):
        ranks = parallel.Ranks(comm)
        with ranks.together():
            if not isinstance(rule, str) or rule not in ("auto", "none"):
                raise InputError(f"patches of a Cartesian mesh are its cells: 'auto' or 'none', not {rule!r:.60}")
            part, meta, block = cartesian.make(ranks, lower, upper, shape, periodic)
        return cls(ranks, part, **meta, block=block)

    @classmethod
    def _dealt(cls, make, comm, rule, strict):
        """Make the whole mesh on rank 0 and deal it out; make() returns (points, blocks, facets, cell points or None)."""
        ranks = parallel.Ranks(comm)
        made = ranks.on_root(lambda: _whole(*make(), rule=rule, strict=strict, n_ranks=ranks.size))
        parts, meta = made if ranks.is_root else (None, None)
        return cls(ranks, ranks.deal(parts), **ranks.share(meta))

    # ---- functions on it ---------------------------------------------------------------------------------------------

    def average(self, f, degree=4):
        """Cell averages (..., n_cells) of f(x), x of shape (dim, n), by Gauss rules exact for polynomials of that degree.

        An f that returns booleans (an indicator) is averaged by halving the cells that its edge cuts.
        """
        with self.ranks.together():
            return quadrature.average(self._pieces, self.n_cells, f, degree)

    def face_average(self, f, degree=3):
        """Averages (..., n_faces) over the faces of f(x)."""
        with self.ranks.together():
            return sum(weight * np.asarray(f(x)) for x, weight in
                       quadrature.face_points(self.points, self.vertices, degree))

    def circulation(self, f, degree=3):
        """Integrals (n_faces,) of the vector f(x) (3, n) around the faces, counter-clockwise seen from the normal's tip."""
        with self.ranks.together():
            return quadrature.circulation(self.points, self.vertices, f, degree)

    def density(self, f):
        """Cell averages scaled to mass 1: of a function, or of given values (n_cells,).

        Raises `InputError` where values are negative or not finite, of the wrong shape, or all zero.
        """
        rho = self.average(f) if callable(f) else f
        with self.ranks.together():
            rho = _floats(rho, "the density")
        self.check_density(rho, "the density")
        mass = self.integrate(rho)
        self.ranks.check(0 < mass < np.inf, f"the density has mass {mass}: it must be positive somewhere on the mesh, and finite")
        return rho / mass

    def check_density(self, rho, what):
        """`InputError` on every rank unless rho is of shape (n_cells,), finite and non-negative."""
        rho = np.asarray(rho)
        self.ranks.check(rho.shape == (self.n_cells,), f"{what} has shape {rho.shape}; it needs one value for each of this "
                         f"rank's cells: ({self.n_cells},). mesh.density and mesh.scatter make such arrays")
        with self.ranks.together():
            bad = np.flatnonzero(~(rho >= 0) | ~np.isfinite(rho))
            if len(bad):
                raise InputError(f"{what} is {rho[bad[0]]} in cell {self.cell_id[bad[0]]} (at {self.center[:, bad[0]]}): "
                                 f"it must be finite and at least 0 ({len(bad)} cells are not)")

    def integrate(self, u):
        """The integral sum_K |K| u_K of cell values u (..., n_cells): a number, or an array (...)."""
        return self.ranks.sum((self.volume * u).sum(axis=-1))

    def gather(self, u):
        """Cell values (..., n_cells) of all ranks, in the file's numbering (..., n_cells_global), on every rank."""
        everything = self.ranks.all_gather(np.asarray(u))
        ordered = np.empty_like(everything)
        ordered[..., self.ranks.all_gather(self.cell_id[:self.n_cells])] = everything
        return ordered

    def scatter(self, u):
        """This rank's part (..., n_cells) of cell values in the file's numbering (..., n_cells_global)."""
        u = np.asarray(u)
        self.ranks.check(u.shape[-1:] == (self.n_cells_global,), f"scatter needs {self.n_cells_global} values, one for each "
                         f"cell of the mesh; the array has shape {u.shape}")
        return u[..., self.cell_id[:self.n_cells]]

    def with_ghosts(self, u):
        """Own values (..., n_cells) followed by those of the ghosts, fetched from their ranks: (..., n_local)."""
        local = np.empty(np.shape(u)[:-1] + (self.n_local,), np.asarray(u).dtype)
        local[..., :self.n_cells] = u
        return self.exchange(local)

    def divergence(self, flux):
        """(div F)_K = sum over the faces of K of the flux (n_faces,) that leaves it, / |K|: (n_cells,)."""
        n = self.n_inner
        out = np.bincount(self.left, flux, self.n_local)
        out -= np.bincount(self.right[:n], flux[:n], self.n_local)
        return out[:self.n_cells] / self.volume

    def gradient(self, u):
        """(u_L - u_K) / d_sigma on the inner faces, 0 on the boundary: (n_faces,)."""
        n, local = self.n_inner, self.with_ghosts(u)
        slope = np.zeros(self.n_faces)
        slope[:n] = (local[self.right[:n]] - local[self.left[:n]]) / self.distance[:n]
        return slope

    def quality(self):
        """How good the mesh is, as a `Quality`: orthogonality and isotropy defects, smallest distances, sizes. Print it."""
        return self._quality

    @cached_property
    def face_owned(self):
        """(n_faces,) whether the face counts here in sums over all faces: its left cell is this rank's own."""
        return _frozen(self.left < self.n_cells)

    @cached_property
    def _pieces(self):
        spacing = None if self.block is None else self.block.spacing
        return quadrature.of_cells(self.points, self.kind, self.start, self.corners, self.centroid, spacing)

    @cached_property
    def face_exchange(self):
        """The exchange of values on faces between two ranks: each side sends its own, and receives the other's."""
        n = self.n_inner
        far = np.maximum(self.left[:n], self.right[:n])
        shared = np.flatnonzero(far >= self.n_cells)
        owner = self.ghost_owner[far[shared] - self.n_cells]
        key = np.stack([self.cell_id[self.right[shared]], self.cell_id[self.left[shared]]])
        lists = {q: shared[owner == q][np.lexsort(key[:, owner == q])] for q in np.unique(owner)}
        return parallel.Exchange(self.ranks, lists, lists)

    def __repr__(self):
        return f"<fvot.Mesh: {self.n_cells_global} cells in {self.dim}D on {self.ranks.size} ranks>"


def _frozen(array):
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array


def _shape(shape, dim):
    if np.shape(shape) != (dim,):
        raise InputError(f"shape must be {dim} numbers of cells, not {shape!r}")
    return tuple(shape)


def _floats(numbers, what):
    try:
        return np.asarray(numbers, float)
    except (TypeError, ValueError):
        raise InputError(f"{what} must be an array of numbers, not {numbers!r:.60}") from None


def _points(points):
    array = _floats(points, "points")
    if array.ndim != 2 or not 1 <= len(array) <= 3:
        raise InputError(f"points must have shape (dim, n) with dim 1, 2 or 3, not {array.shape}; space comes first")
    return array


def _named(boundary):
    if boundary is not None and not isinstance(boundary, dict):
        raise InputError(f"boundary must be a dict, {{name: points of the faces}}, not {boundary!r:.60}")
    return boundary


def _in_box(points, blocks, lower, upper, center=None):
    """What a builder made, with the sides of its box as boundary facets."""
    return points, blocks, partial(build.sides, points, *build.box_corners(lower, upper, len(points))), center


def _given_center(center, centroid):
    center = _floats(center, "center")
    if center.shape != centroid.shape or not np.isfinite(center).all():
        raise InputError(f"center must be finite numbers of shape {centroid.shape}, one point for each cell, "
                         f"not {center.shape}: {center!r:.60}")
    return center


def _whole(points, blocks, facets=None, center=None, *, rule, strict, n_ranks):
    """Everything about a mesh in its file's numbering, cut into the parts of the ranks: (parts, meta)."""
    cells = faces.connect(points, blocks)
    volume, centroid, face = faces.build_faces(cells, facets)
    center = faces.cell_points(cells, centroid) if center is None else _given_center(center, centroid)
    report, center, left, right = quality.admissible(volume, centroid, center, face, strict)
    patch = patches.choose_patches(rule, cells, volume, face, left, right)
    levels = patches.coarser_levels(patch, patches.adjacency(face, cells.n_cells))
    whole = partition.Whole(cells, volume, centroid, center, face, left, right, levels)
    return partition.parts(whole, n_ranks), dict(names=list(face.boundary), quality=report)


