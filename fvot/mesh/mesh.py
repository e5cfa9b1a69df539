"""`Mesh`: this rank's part of a mesh as plain, read-only numpy arrays."""

import zlib
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
from scipy.spatial import ConvexHull

from .. import parallel
from ..arguments.frozen import frozen
from ..arguments.functions import called, floats, refuse_masked
from ..errors import InputError, warn
from . import (
    builders,
    cartesian,
    density_input,
    faces,
    gathering,
    geodesic_distance,
    partition,
    patches,
    point_location,
    power_centers,
    quadrature,
    quality,
    read,
    refine,
)
from .cells import TETRA, TRIANGLE, connect
from .groups import Parts
from .joining import check_conforming, count_thin_walls, join_cells
from .numbering import Numbering, renumbered
from .patch_choice import choose_patches
from .patch_test import TwoPoint
from .removal import kept, left_out
from .walls import Walls

MANY = 10**8  # points, or pairs of points, at most


@frozen
class Mesh:
    """A mesh, dealt to the ranks of a communicator; the arrays hold this rank's own cells and the
    faces that touch them.

    Made by `interval`, `rectangle`, `box`, `triangles`, `tetrahedra`, `voronoi`, `read` and
    `from_cells`, which take

    comm : MPI communicator that shares the mesh; None for all ranks.
    patches : "auto", "none", a number of cells, an array (n_cells_global,), or a function of
        centroids (dim, n_cells_global) that returns one: the patches on which densities of optimal
        transport live. "auto" is pairs on triangles, 8 or 16 on tetrahedra of a file, single cells
        where these are regular or the mesh is not orthogonal, else one to 2^dim cells, the more the
        finer the mesh is.
    strict : refuse (`MeshError`) a mesh with faces of signed distance < 0, where power centres near
        their cells have them, too; False clips these distances, with a warning. Distances of 0, as
        of right triangles, are small positive ones. Cartesian meshes have none: there it changes
        nothing.

    Attributes, lengths in the units of the points:

    dim, n_cells, n_cells_global, n_faces, n_inner : numbers; n_inner counts the faces that have two
        cells
    volume (n_cells,), center (dim, n_cells) : measure |K| and point x_K of each cell: circumcentres
        of simplices (power centres where those are not in the order of their cells), generators of
        Voronoi cells, else centroids; `centroid` (dim, n_cells) is always the centroid
    left, right (n_faces,) : cells on both sides; numbers from n_cells on are ghosts, right is -1 on
        the boundary
    area (n_faces,), normal (dim, n_faces) : measure and unit normal, from left to right, or
        outwards
    distance, left_distance, right_distance (n_faces,) : from x_K to x_L (to the face on the
        boundary) along the normal
    left_offset, right_offset (dim, n_faces) : from the cells' centroids to the face's centroid
    boundary : {name: faces}, the boundary faces of each name, a slice or (where names overlap) an
        index array. Groups of a file that have no name have their number, `mesh.boundary[11]`;
        faces in no group are called "boundary"
    interfaces : {name: faces}, the inner faces of groups that lie inside the mesh
    regions : {name: cells}, the cells of each group, index arrays; a cell may be in several, or in
        none
    bounds (2, dim) : lower and upper corner of the box around the whole mesh
    has_simplices : whether all cells are triangles or all are tetrahedra
    first_row : number of this rank's first cell where cells are counted rank by rank, as PETSc
        numbers rows
    parent_cell (n_cells,) : of a mesh that `without` has made: numbers in the file of the mesh that
        it was cut from
    cell_id (n_local,) : number in the file of each cell, own cells first, then ghosts
    patch (n_cells,), levels (n_levels, n_cells) : global numbers of the patch, and of ever larger
        patches, of each cell
    corrects_weights : whether transport corrects the weights of faces so that patches are isotropic
        (`mesh.patch_test`)
    """

    def __init__(
        self, ranks, part, *, names, quality, interfaces=(), regions=(), block=None, finer=None
    ):
        self.ranks = ranks
        self.block = block
        self._finer = finer
        self._quality = quality
        self.corrects_weights = (
            quality is None or quality.corrects_weights
        )  # agglomerates, which have none, do
        self.near_order = None
        self._names = names
        for name, array in part.items():
            setattr(self, name, _frozen(array))
        self.dim, self.n_cells = self.center.shape
        self.n_local = len(self.cell_id)
        self.n_faces = len(self.area)
        ends = part["boundary_ends"]
        self.n_inner = int(ends[1])
        self.boundary = Parts(
            {name: _faces_of(sets, ends[1:]) for name, sets in names.items()}, "boundary", names
        )
        self.interfaces = Parts(
            _by_name(interfaces, part, "interface_faces", "interface_ends"), "interface"
        )
        self.regions = Parts(_by_name(regions, part, "region_cells", "region_ends"), "region")
        self.distance = _frozen(self.left_distance + self.right_distance)
        self.patch = self.levels[0]
        counts = ranks.all_gather(
            np.array([self.n_cells, np.isin(part.get("kind", ()), (TRIANGLE, TETRA)).sum()])
        )
        self.n_cells_global, n_simplices = map(int, (counts[::2].sum(), counts[1::2].sum()))
        self.first_row = int(counts[: 2 * ranks.rank : 2].sum())
        self.has_simplices = n_simplices == self.n_cells_global
        if "points" in part:  # coarse levels have none
            self.bounds = _frozen(
                np.stack([ranks.min(self.points.min(axis=1)), ranks.max(self.points.max(axis=1))])
            )
        self.exchange = parallel.Exchange.ghosts(
            ranks, self.cell_id[: self.n_cells], self.cell_id[self.n_cells :], self.ghost_owner
        )

    # ---- how meshes are made -----------------------------------------------------------------------------------------

    @classmethod
    def interval(cls, a, b, n, *, periodic=False, comm=None, patches="auto", strict=True):
        """n equal cells between a and b; the ends are named "left" and "right"."""
        return cls._cartesian(a, b, (n,), periodic, comm, patches, strict)

    @classmethod
    def rectangle(
        cls, lower, upper, shape, *, periodic=False, comm=None, patches="auto", strict=True
    ):
        """shape = (nx, ny) equal rectangles; sides "left", "right", "bottom", "top"; *periodic*:
        one bool or one per axis.

        Cells are numbered in C order: a gathered u has `u.reshape(shape)[i, j]` at the i-th place
        in x.
        """
        return cls._cartesian(lower, upper, _shape(shape, 2), periodic, comm, patches, strict)

    @classmethod
    def box(cls, lower, upper, shape, *, periodic=False, comm=None, patches="auto", strict=True):
        """shape = (nx, ny, nz) equal boxes; sides "left", "right" (x), "front", "back" (y),
        "bottom", "top" (z).
        """
        return cls._cartesian(lower, upper, _shape(shape, 3), periodic, comm, patches, strict)

    @classmethod
    def triangles(cls, lower, upper, n, *, comm=None, patches="auto", strict=True):
        """Acute isosceles triangles in shifted rows, n along x; sides named as those of
        `rectangle`.
        """
        return cls._dealt(
            lambda: _in_box(*builders.triangles(lower, upper, n), lower, upper),
            comm,
            patches,
            strict,
        )

    @classmethod
    def tetrahedra(cls, lower, upper, n, *, comm=None, patches="auto", strict=True):
        """Sommerville's tetrahedra, twelve to each of n cubes along x (the patches, if "auto");
        sides as those of `box`.
        """
        if isinstance(patches, str) and patches == "auto":
            patches = builders.cube_of(lower, upper, n)

        def make():
            points, blocks, center = builders.tetrahedra(lower, upper, n)
            return _in_box(points, blocks, lower, upper, center)

        return cls._dealt(make, comm, patches, strict)

    @classmethod
    def voronoi(cls, lower, upper, n_cells, seed=0, *, comm=None, patches="auto", strict=True):
        """Centroidal Voronoi polygons of a rectangle, from random generators; sides named as those
        of `rectangle`.
        """

        def make():
            points, blocks, center = builders.voronoi(lower, upper, n_cells, seed)
            return _in_box(points, blocks, lower, upper, center)

        finer = partial(
            cls._more_polygons,
            lower=lower,
            upper=upper,
            n_cells=4 * n_cells,
            seed=seed,
            patches=_rule(patches),
            strict=strict,
        )
        return cls._dealt(make, comm, patches, strict, finer)

    @classmethod
    def _more_polygons(cls, mesh, **what):
        return cls.voronoi(**what, comm=mesh.ranks.comm)

    @classmethod
    def read(cls, path, *, merge=True, comm=None, patches="auto", strict=True):
        """A mesh from a file: Gmsh's (.msh), VTK's (.vtk, .vtu, .pvtu, .vtp, .vts, .vti, .vtr,
        .vtkhdf), or meshio's.

        Cells are those of the highest dimension, in the order of the file. Groups of faces name the
        `boundary` and the `interfaces`, groups of cells are `regions`: Gmsh's physical groups, sets
        of cells of other formats, and in VTK's the numbers in a cell array "gmsh:physical",
        "medit:ref", "CellEntityIds", "MaterialIds", "material", "region" or "cell_tags", the first
        that there is (0 is none). Flat meshes may lie in any plane.

        merge : as in `from_cells`

        Raises `InputError` for a file that cannot be read, `MeshError` for a mesh that cannot be
        used.
        """

        def make():
            points, blocks, facets, regions = read.read(path)
            return points, blocks, facets, None, regions

        return cls._dealt(make, comm, patches, strict, merge=merge)

    @classmethod
    def from_cells(
        cls,
        points,
        cells,
        *,
        boundary=None,
        regions=None,
        center=None,
        merge=True,
        comm=None,
        patches="auto",
        strict=True,
    ):
        """A mesh from points (dim, n) and cells [(type, connectivity), ...], as meshio names them;
        polygons as lists.

        boundary : {name: points (width, n) of each face}; the rest is called "boundary", inner
            faces are `interfaces`
        regions : {name: cells}, numbers (n,) or a mask (n_cells,)
        center : points x_K (dim, n_cells), where circumcentres and centroids are not what is wanted
        merge : points of the boundary in one place, up to round-off, are the same, and one warning
            says how many there are; False keeps them apart, so that cells on both sides have a wall
            between them (a crack)

        Corners may be listed in either sense. In the plane a cell may have the points of smaller
        neighbours on its edges (hanging nodes): it becomes a polygon with these as corners, too. In
        space such cells are refused.

        Raises `MeshError` for cells that are flat or tangled, lie on the same side of a face, or do
        not fit to each other. Cells that overlap without a common face are not looked for.
        """

        def make():
            return (
                _points(points),
                cells,
                _named(boundary, "boundary"),
                center,
                _named(regions, "regions"),
            )

        return cls._dealt(make, comm, patches, strict, merge=merge)

    @classmethod
    def _cartesian(cls, lower, upper, shape, periodic, comm, rule, strict=True):
        ranks = parallel.Ranks(comm)
        _check_strict(ranks, strict)
        with ranks.raising_together():
            if not isinstance(rule, str) or rule not in ("auto", "none"):
                raise InputError(
                    f"patches of a Cartesian mesh are its cells: 'auto' or 'none', not {rule!r:.60}"
                )
            part, meta, block = cartesian.make(ranks, lower, upper, shape, periodic)
        ranks.check_same(
            "what a Cartesian mesh is made of",
            dict(
                lower=np.array(lower).tolist(),
                upper=np.array(upper).tolist(),
                shape=block.grid,
                periodic=block.periodic,
            ),
        )
        twice = tuple(2 * n for n in block.grid)
        return cls(
            ranks,
            part,
            **meta,
            block=block,
            finer=partial(
                cls._more_boxes, lower=lower, upper=upper, shape=twice, periodic=periodic, rule=rule
            ),
        )

    @classmethod
    def _more_boxes(cls, mesh, **what):
        return cls._cartesian(**what, comm=mesh.ranks.comm)

    @classmethod
    def _dealt(cls, make, comm, rule, strict, finer=None, merge=False):
        """Make the whole mesh on rank 0 and deal it out; make() returns the first arguments of
        `_whole`.
        """
        ranks = parallel.Ranks(comm)
        _check_strict(ranks, strict)
        made = ranks.on_root(
            lambda: _whole(*make(), rule=rule, strict=strict, merge=merge, n_ranks=ranks.size)
        )
        parts, meta = made if ranks.is_root else (None, None)
        finer = finer or partial(cls._split, rule=rule, strict=strict)
        return cls(ranks, ranks.send_parts(parts), **ranks.broadcast(meta), finer=finer)

    @classmethod
    def _split(cls, mesh, rule, strict):
        """The mesh with every cell cut in 2^dim."""
        whole = gathering.gathered(mesh)
        regions = gathering.gathered_regions(mesh)

        def make():
            return *refine.split(*whole), None, refine.children(regions, 2**mesh.dim)

        return cls._dealt(make, mesh.ranks.comm, _rule(rule), strict)

    def coarsened(self, shape):
        """A Cartesian mesh of the same box with another shape, on the same ranks."""
        return self._cartesian(*self.bounds, shape, self.block.periodic, self.ranks.comm, "auto")

    @cached_property
    def near(self):
        """The `Numbering` in which neighbours lie close in memory, for kernels: the mesh's own
        where that will do.
        """
        if self.near_order is None:
            return Numbering(self, self)
        part = renumbered(self, self.near_order)
        mesh = Mesh(
            self.ranks,
            part,
            names=self._names,
            quality=self._quality,
            interfaces=list(self.interfaces),
            regions=list(self.regions),
        )
        return Numbering(self, mesh, self.near_order)

    def of_agglomerates(self, part):
        """The mesh, on the same ranks, of agglomerates of cells: see `agglomerate`. It has
        operators, but no points.
        """
        return Mesh(self.ranks, part, names={"walls": (0,)}, quality=None)

    # ---- functions on it ---------------------------------------------------------------------------------------------

    def average(self, f, degree=4):
        """Cell averages (..., n_cells) of f(x), x of shape (dim, n), by Gauss rules exact for
        polynomials of that degree.

        An f that returns booleans (an indicator) is averaged by halving the cells that its edge
        cuts.
        """
        with self.ranks.raising_together():
            return quadrature.average(self._pieces, self.n_cells, f, degree)

    def log_mean_exp(self, f, degree=8):
        """log (n_cells,) of the cell averages of e^f(x), for any size of f: -D log_mean_exp(-V/D)
        is a cell-mean potential.
        """
        with self.ranks.raising_together():
            return quadrature.compute_log_mean_exp(self._pieces, self.n_cells, f, degree)

    def face_average(self, f, degree=3):
        """Averages (..., n_faces) over the faces of f(x)."""
        with self.ranks.raising_together():
            return sum(
                weight * np.asarray(called(f, "the function", x))
                for x, weight in quadrature.list_face_points(self.points, self.vertices, degree)
            )

    def circulation(self, f, degree=3):
        """Integrals (n_faces,) of the vector f(x) (3, n) around the faces, counter-clockwise seen
        from the normal's tip.
        """
        with self.ranks.raising_together():
            return quadrature.integrate_along_edges(self.points, self.vertices, f, degree)

    def density(self, f):
        """Cell averages (n_cells,), scaled to mass 1, of what f is:

        a function f(x) of x (dim, n), with numbers or booleans as values
        an array (n_cells,) : the values in this rank's cells
        an array (dim, n) : n points of equal mass, the same on every rank (see `deposit`)
        an array of dim axes, 2 or 3 : a picture over the bounding box of the whole mesh, the same
            on every rank; picture[i, j] is the i-th place in x and the j-th in y, as on `rectangle`
        a path (str or Path) of an image file (png, jpg, ...) : its grey levels, upright, over the
            bounding box of a plane mesh. Light is mass: black and transparent are 0

        A picture is averaged exactly over Cartesian cells, else by Gauss points in pieces a quarter
        of a pixel wide (as long as these are not too many). In two dimensions (2, n) are points,
        not a picture of two columns; (n, 2) is refused.

        Raises `InputError` where values are negative or not finite, of a shape that is none of
        these or could be two of them, or all zero.
        """
        meaning, f = density_input.classify_density(f, self)
        if meaning == "image":
            meaning = "picture"
            f = self.ranks.broadcast(self.ranks.on_root(density_input.image, f, self.dim))
        averages = {
            "function": self.average,
            "values": np.array,
            "points": self.deposit,
            "picture": self._developed,
        }
        rho = averages[meaning](f)
        self.check_density(rho, "the density")
        mass = self.integrate(rho)
        self.ranks.check(
            0 < mass < np.inf,
            f"the density has mass {mass}: it must be positive somewhere on the mesh, and finite",
        )
        return rho / mass

    def _developed(self, picture):
        """Cell averages (n_cells,) of a picture, an array of dim axes over the bounding box of the
        whole mesh.
        """
        self.ranks.check_same_array("the picture", picture)
        if self.block is not None:
            return density_input.average_over_block(picture, self.block)
        lower, upper = self.bounds
        halvings = density_input.halvings(
            picture, lower, upper, self._quality.size[1], self.n_cells_global
        )
        with self.ranks.raising_together():
            return quadrature.average(
                self._pieces,
                self.n_cells,
                density_input.image_function(picture, lower, upper),
                2,
                halvings,
            )

    def deposit(self, points, weights=None):
        """Cell averages (n_cells,) of point masses: each mass goes to the cell that holds its
        point.

        points (dim, n), weights (n,), 1 / n each if not given: the same on every rank. A point on a
        face belongs to one of its cells, the same on any number of ranks; points may lie outside
        the mesh by 1e-9 of its size, and anywhere along a periodic axis. The total mass is exact to
        round-off.

        Raises `InputError` for points outside the mesh.
        """
        with self.ranks.raising_together():
            points, weights = density_input.masses(points, weights, self.dim)
        self.ranks.check_same_array("weights", weights)
        cell = self.locate(points)
        mine = np.flatnonzero(cell >= 0)
        return np.bincount(cell[mine], weights[mine], self.n_cells) / self.volume

    def to_points(self, rho, k=1):
        """Point masses (points (dim, n), weights (n,)), the same on every rank, of a density
        (n_cells,): what `deposit` undoes.

        k : at least so many points for each cell. 1: its centroid; else the centroids of equal
            parts of its simplices, or of the box that it is. Cells without mass have none. The mass
            and its centre are exact.

        Points come in the order of the cells in the file, on any number of ranks. Raises
        `InputError` for what is no density, and for more than 10^8 points.
        """
        self.check_density(rho, "rho")
        self.ranks.check(
            isinstance(k, (int, np.integer))
            and not isinstance(k, bool)
            and 1 <= k <= MANY / self.n_cells_global,
            "k must be a number of points for each cell, from 1 to "
            f"{MANY // self.n_cells_global}, not {k!r}",
        )
        self.ranks.check_same("k", k)
        x, volume, cell = self.parts(k)
        mass = volume * np.asarray(rho, float)[cell]
        some = np.flatnonzero(mass > 0)
        order = np.argsort(self.ranks.all_gather(self.cell_id[cell[some]]), kind="stable")
        return self.ranks.all_gather(x[:, some])[:, order], self.ranks.all_gather(mass[some])[order]

    def parts(self, k):
        """(centroids (dim, n), volumes (n,), cells (n,)) of at least k parts of each of this rank's
        cells.
        """
        if k == 1:
            return self.centroid, self.volume, np.arange(self.n_cells)
        return quadrature.split_into_parts(self._pieces, k)

    def geodesic_distance(self, points, others=None):
        """Lengths (n, m) of the shortest ways inside the mesh from points (dim, n) to others (dim,
        m), None: the same points.

        Straight where nothing is in the way. Else in the plane round the corners of the walls,
        exactly (a visibility graph: Lozano-Perez, Wesley 1979); in space by way of some 1000 points
        of their edges, or two on each: too long by the square of their spacing. Along periodic axes
        the shortest way counts. The points are the same on every rank.

        Raises `InputError` for points outside the mesh, and where no way leads from one to another.
        """
        self.ranks.check_same("whether others are given", others is None)
        with self.ranks.raising_together():
            points = density_input.masses(points, None, self.dim)[0]
            others = points if others is None else density_input.masses(others, None, self.dim)[0]
            n = points.shape[1]
            m = others.shape[1]
            if n * m > MANY:
                raise InputError(
                    f"{n} times {m} points are {n * m:.1e} pairs, at most {MANY:.0e} will do: "
                    "take fewer points"
                )
        for some in points, others:
            self.locate(some)
        if self.is_convex:
            return geodesic_distance.measure_straight(self, points, others)
        ways = {
            1: geodesic_distance.measure_between_gaps,
            2: geodesic_distance.measure_round_corners,
            3: geodesic_distance.measure_over_edges,
        }
        lengths = ways[self.dim](self, points, others)
        if not np.isfinite(lengths).all():
            i, j = np.argwhere(~np.isfinite(lengths))[0]
            raise InputError(
                f"no way in the mesh leads from {points[:, i]} to {others[:, j]}: they lie in "
                "separate pieces"
            )
        return lengths

    def nearest(self, points):
        """The point (dim, n) of the mesh nearest to each of points (dim, n): itself where it is
        inside. Collective.

        The points are the same on every rank. (No axis may be periodic.)
        """
        with self.ranks.raising_together():
            points, _ = density_input.masses(points, None, self.dim)
        self.ranks.check_same_array("points", points)
        outside = ~self.find(points)[1]
        found = np.array(points)
        if outside.any():
            found[:, outside] = self.walls.find_nearest(found[:, outside])
        return found

    def locate(self, points):
        """The numbers (n,) of this rank's cells that hold points (dim, n), the same on every rank;
        -1 on another rank.

        Each point is in one cell of one rank (see `deposit`). Raises `InputError` for points
        outside the mesh.
        """
        with self.ranks.raising_together():
            points, _ = density_input.masses(points, None, self.dim)
        self.ranks.check_same_array("points", points)
        cell, inside = self.find(points)
        self._check_inside(points, ~inside)
        return cell

    def find(self, points):
        """(cell, inside): the same as `locate`, and which points (n,) are inside the mesh; cell is
        -1 for the others.
        """
        lower, upper = self.bounds
        slack = point_location.MAX_OUTSIDE * (upper - lower).max()
        if self.block is not None:
            points = point_location.wrap(points, lower, upper, self.block.periodic)
            inside = ((points >= lower[:, None] - slack) & (points <= upper[:, None] + slack)).all(
                axis=0
            )
            return np.where(
                inside, point_location.find_in_block(points, self.block, lower), -1
            ), inside
        cell, distance = self._tree.find(points, slack)
        least = self.ranks.min(distance)
        number = np.where(
            (distance == least) & (cell >= 0), self.cell_id[cell], self.n_cells_global
        )
        return np.where((number == self.ranks.min(number)) & (cell >= 0), cell, -1), np.isfinite(
            least
        )

    def shortest(self, step):
        """Steps (dim, n) as they are, but for whole periods along periodic axes, which are left
        out.
        """
        if self.block is None or not any(self.block.periodic):
            return step
        period = np.diff(self.bounds, axis=0)[0][:, None]
        return step - np.where(
            np.array(self.block.periodic)[:, None], period * np.round(step / period), 0.0
        )

    @cached_property
    def is_convex(self):
        """Whether straight lines between its points stay inside the mesh; a torus counts as convex.
        Collective at first.
        """
        if self.block is not None:
            return True
        ends = (
            self.points[:, np.unique(self.vertices[:, self.n_inner :])]
            if self.n_faces > self.n_inner
            else self.points[:, :0]
        )
        ends = self.ranks.all_gather(ends)
        measure = self.integrate(1.0)
        if self.dim == 1:
            return bool(np.ptp(ends[0]) <= measure * (1 + 1e-9))
        hull = ConvexHull(ends.T)
        walls = self.ranks.sum(self.area[self.n_inner :].sum())
        return bool(
            hull.volume <= measure * (1 + 1e-9) and walls <= hull.area * (1 + 1e-9)
        )  # no walls within, either

    def _check_inside(self, points, outside):
        wrong = np.flatnonzero(outside)
        if len(wrong):
            lower, upper = self.bounds
            raise InputError(
                f"point {wrong[0]} at {points[:, wrong[0]]} is outside the mesh, which lies "
                "between "
                f"{lower} and {upper} ({len(wrong)} of {points.shape[1]} points are outside): "
                "leave them out, or "
                "make the mesh larger"
            )

    def check_density(self, rho, what):
        """`InputError` on every rank unless rho is of shape (n_cells,), finite and non-negative."""
        with self.ranks.raising_together():
            refuse_masked(rho, f"{what} must be an array of numbers")
            try:
                rho = np.asarray(rho)
            except ValueError:
                raise InputError(f"{what} must be an array of numbers, not {rho!r:.60}") from None
        self.ranks.check(
            rho.dtype != object, f"{what} must be an array of numbers, not {rho!s:.60}"
        )
        self.ranks.check(
            rho.dtype.kind in "biuf", f"{what} must be real numbers, not of type {rho.dtype}"
        )
        self.ranks.check(
            rho.shape == (self.n_cells,),
            f"{what} has shape {rho.shape}; {self.wanted_shape(rho.shape)}",
        )
        with self.ranks.raising_together():
            bad = np.flatnonzero(~(rho >= 0) | ~np.isfinite(rho))
            if len(bad):
                raise InputError(
                    f"{what} is {rho[bad[0]]} in cell {self.cell_id[bad[0]]} (at "
                    f"{self.center[:, bad[0]]}): "
                    f"it must be finite and at least 0 ({len(bad)} cells are not)"
                )

    def _check_cells(self, u):
        """`InputError` on every rank unless u is (..., n_cells), or one number, and of as many of
        these on all of them.
        """
        problem = self._problem_of_cells(u)
        shape = np.shape(u)[:-1] if problem is None else ()
        code = zlib.crc32(repr(shape).encode())
        bad, most, least = self.ranks.max(
            np.array([problem is not None, code, -code])
        )  # asked often: one message
        if bad or most != -least:
            self.ranks.check(problem is None, problem)
            self.ranks.check_same("the shape of cell values, but for the last number,", shape)

    def _problem_of_cells(self, u):
        """What to say of cell values that are masked, or of a wrong shape; else None."""
        try:
            refuse_masked(u, "cell values must be numbers")
            shape = np.shape(u)
        except InputError as error:
            return str(error)
        except ValueError:
            return f"cell values must be an array of numbers, not {u!r:.60}"
        if shape and shape[-1] != self.n_cells:
            return (
                f"an array of shape {shape} is none of cell values (..., n_cells): this rank has "
                f"{self.n_cells} cells; "
                f"{self.wanted_shape(shape)}"
            )
        return None

    def wanted_shape(self, shape):
        """What to say of cell values of another shape: which one is wanted, and what makes such
        arrays.
        """
        if shape[-1:] == (self.n_cells_global,) and self.n_cells < self.n_cells_global:
            return (
                f"these are the cells of the whole mesh, of which this rank has {self.n_cells}: "
                "mesh.scatter(u) makes "
                f"this rank's part, ({self.n_cells},)"
            )
        return (
            f"it needs one value for each of this rank's cells: ({self.n_cells},). mesh.density "
            "and mesh.scatter make such "
            "arrays"
        )

    def integrate(self, u):
        """The integral sum_K |K| u_K of cell values u (..., n_cells): a number, or an array (...)."""
        self._check_cells(u)
        return self.ranks.sum((self.volume * np.asarray(u)).sum(axis=-1))

    def gather(self, u):
        """Cell values (..., n_cells) of all ranks, in the file's numbering (..., n_cells_global),
        on every rank.
        """
        self._check_cells(u)
        everything = self.ranks.all_gather(np.asarray(u))
        ordered = np.empty_like(everything)
        ordered[..., self.ranks.all_gather(self.cell_id[: self.n_cells])] = everything
        return ordered

    def scatter(self, u):
        """This rank's part (..., n_cells) of cell values in the file's numbering (...,
        n_cells_global).
        """
        with self.ranks.raising_together():
            refuse_masked(u, "cell values must be numbers")
        u = np.asarray(u)
        self.ranks.check(
            u.shape[-1:] == (self.n_cells_global,),
            f"scatter needs {self.n_cells_global} values, one for each "
            f"cell of the mesh; the array has shape {u.shape}",
        )
        return u[..., self.cell_id[: self.n_cells]]

    def with_ghosts(self, u):
        """Own values (..., n_cells) followed by those of the ghosts, fetched from their ranks:
        (..., n_local).
        """
        local = np.empty(np.shape(u)[:-1] + (self.n_local,), np.asarray(u).dtype)
        local[..., : self.n_cells] = u
        return self.exchange(local)

    def divergence(self, flux):
        """(div F)_K = sum over the faces of K of the flux (n_faces,) that leaves it, / |K|:
        (n_cells,).
        """
        n = self.n_inner
        out = np.bincount(self.left, flux, self.n_local)
        out -= np.bincount(self.right[:n], flux[:n], self.n_local)
        return out[: self.n_cells] / self.volume

    def gradient(self, u):
        """(u_L - u_K) / d_sigma on the inner faces, 0 on the boundary: (n_faces,)."""
        self._check_cells(u)
        n = self.n_inner
        local = self.with_ghosts(u)
        slope = np.zeros(self.n_faces)
        slope[:n] = (local[self.right[:n]] - local[self.left[:n]]) / self.distance[:n]
        return slope

    def quality(self):
        """How good the mesh is, as a `Quality`: orthogonality and isotropy defects, smallest
        distances, sizes. Print it.
        """
        return self._quality

    def refine(self):
        """The mesh with every cell cut in 2^dim: results on both tell the mesh's error. Boundaries
        keep their names.

        Intervals, triangles, quadrilaterals, tetrahedra, wedges and hexahedra are cut at the
        middles of their edges; the children of cell k are cells 2^dim k, 2^dim k + 1, ... in the
        file's numbering. A Cartesian mesh gets twice its shape, and a mesh of `voronoi` is made
        anew, with four times its cells. Cell points are chosen anew, as by `from_cells`; patches
        that were given as an array become "auto".

        Raises `InputError` for meshes with polygons or pyramids, `MeshError` if the finer mesh is
        not admissible.
        """
        return self._finer(self)

    def without(self, f, *, name="hole"):
        """The mesh without the cells that f names; the faces laid bare are the boundary *name*, all
        others keep theirs.

        f : a mask (n_cells,) of this rank's cells, such as `numpy.isnan(F)`; a function f(x) of the
            cell points (dim, n) that returns one; or the numbers in the file of cells, the same on
            every rank

        The cells that stay come in their old order, and the new mesh has `parent_cell` (n_cells,),
        their numbers in the file of this one: cell values u go over by ``mesh.gather(u)[...,
        new.parent_cell]``, and on one rank u may stand for mesh.gather(u). Patches are what is left
        of the old ones; cell points are the old ones, or those of simplices chosen anew, as by
        `from_cells`. What is left may fall into pieces. Where f names no cell this is the mesh
        itself.

        Raises `InputError` where nothing is left, for periodic meshes, and for an f that is none of
        the three.
        """
        self.ranks.check(
            isinstance(name, str) and name, f"name must be the name of a boundary, not {name!r:.60}"
        )
        self.ranks.check_same("name", name)
        removed = left_out(self, f)
        count = int(self.ranks.sum(int(removed.sum())))
        self.ranks.check(
            count < self.n_cells_global,
            f"f names all {self.n_cells_global} cells: nothing is left of the mesh",
        )
        if count == 0:
            return self
        self.ranks.check(
            self.block is None or not any(self.block.periodic),
            "cells of a periodic mesh cannot be left out: "
            "make it without periodic=, which leaves walls there",
        )
        stays = np.flatnonzero(~self.gather(removed))
        patch = self.gather(self.patch)[stays]
        whole = kept(self, removed, name)
        made = self._dealt(
            lambda: whole,
            self.ranks.comm,
            patch,
            self._quality.n_clipped == self._quality.n_negative == 0,
        )
        vars(made).update(parent_cell=_frozen(stays[made.cell_id[: made.n_cells]]))
        return made

    def kites(self):
        """The mesh with every triangle cut in three kites around its circumcentre, whose patches
        are the kites of a vertex.

        The density of optimal transport then belongs to the vertices: interpolated between them, it
        is the most accurate one that triangles give, at three times the work. Boundaries keep their
        names. Raises `InputError` unless all cells are acute triangles.
        """
        self.ranks.check(
            self.dim == 2 and self.has_simplices,
            "kites are cut from triangles: this mesh has other cells",
        )
        whole = gathering.gathered(self)
        regions = gathering.gathered_regions(self)

        def cut():
            points, _, _, corners, facets = whole
            return refine.kites(points, corners, facets)

        made = self.ranks.on_root(cut)
        *whole, patch = made or (None,) * 5
        return self._dealt(
            lambda: (*whole, refine.children(regions, 3)), self.ranks.comm, patch, True
        )

    @cached_property
    def face_owned(self):
        """(n_faces,) whether the face counts here in sums over all faces: its left cell is this
        rank's own.
        """
        return _frozen(self.left < self.n_cells)

    @cached_property
    def _tree(self):
        return point_location.build_tree(self._pieces, self.cell_id[: self.n_cells])

    @cached_property
    def walls(self):
        """The walls of the whole mesh as simplices, on every rank: `Walls`. Collective at first."""
        return Walls.gather(self)

    @cached_property
    def _pieces(self):
        spacing = None if self.block is None else self.block.spacing
        return quadrature.split_cells(
            self.points, self.kind, self.start, self.corners, self.centroid, spacing
        )

    @cached_property
    def face_exchange(self):
        """The exchange of values on faces between two ranks: each side sends its own, and receives
        the other's.
        """
        n = self.n_inner
        far = np.maximum(self.left[:n], self.right[:n])
        shared = np.flatnonzero(far >= self.n_cells)
        owner = self.ghost_owner[far[shared] - self.n_cells]
        key = np.stack([self.cell_id[self.right[shared]], self.cell_id[self.left[shared]]])
        lists = {q: shared[owner == q][np.lexsort(key[:, owner == q])] for q in np.unique(owner)}
        other = dict(lists)
        if (
            self.ranks.rank in lists
        ):  # a periodic face is there twice: the two copies stand side by side
            other[self.ranks.rank] = lists[self.ranks.rank].reshape(-1, 2)[:, ::-1].ravel()
        return parallel.Exchange(self.ranks, lists, other)

    def __setstate__(self, state):
        """Be what was copied or pickled: arrays are read-only again."""
        vars(self).update(
            {
                name: _frozen(value) if isinstance(value, np.ndarray) else value
                for name, value in state.items()
            }
        )

    def __repr__(self):
        return f"<fvot.Mesh: {self.n_cells_global} cells in {self.dim}D on {self.ranks.size} rank{'s' * (self.ranks.size > 1)}>"


def _frozen(array):
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array


def _check_strict(ranks, strict):
    ranks.check(
        isinstance(strict, (bool, np.bool_)), f"strict must be True or False, not {strict!r:.60}"
    )


def _shape(shape, dim):
    if np.shape(shape) != (dim,):
        raise InputError(f"shape must be {dim} numbers of cells, not {shape!r}")
    return tuple(shape)


def _rule(patches):
    """The same rule for patches on a finer mesh."""
    return (
        patches
        if isinstance(patches, str) or np.ndim(patches) == 0 and not callable(patches)
        else "auto"
    )


def _points(points):
    array = floats(points, "points must be an array of numbers")
    if array.ndim != 2 or not 1 <= len(array) <= 3:
        raise InputError(
            f"points must have shape (dim, n) with dim 1, 2 or 3, not {array.shape}; space comes "
            "first"
        )
    return array


def _faces_of(sets, ends):
    """The faces of a name, which are those of some sets: a slice, on all ranks, if the sets follow
    each other.
    """
    if sets[-1] - sets[0] == len(sets) - 1:
        return slice(int(ends[sets[0]]), int(ends[sets[-1] + 1]))
    return _frozen(np.concatenate([np.arange(ends[k], ends[k + 1]) for k in sets]))


def _by_name(names, part, members, ends):
    """{name: numbers} from all numbers in one row, and where those of each name begin."""
    return {name: part[members][part[ends][i] : part[ends][i + 1]] for i, name in enumerate(names)}


def _named(parts, what):
    if parts is not None and not isinstance(parts, dict):
        members = {"boundary": "points of the faces", "regions": "cells"}[what]
        raise InputError(f"{what} must be a dict, {{name: {members}}}, not {parts!r:.60}")
    return parts


def _given_regions(regions, n_cells):
    """{name: numbers of cells, sorted} from numbers or masks; `InputError` for what is neither."""
    found = {}
    for name, cells in (regions or {}).items():
        array = np.asarray(cells)
        if array.dtype == bool and array.shape == (n_cells,):
            array = np.flatnonzero(array)
        if array.ndim != 1 or len(array) and not np.issubdtype(array.dtype, np.integer):
            raise InputError(
                f"region {name!r} must be numbers of cells (n,), or a mask ({n_cells},), not "
                f"{array.dtype} of "
                f"shape {array.shape}"
            )
        bad = array[(array < 0) | (array >= n_cells)]
        if len(bad):
            raise InputError(
                f"region {name!r} names cell {bad[0]}, but there are {n_cells} cells, from 0 on"
            )
        found[name] = np.unique(array.astype(np.int64))
    return found


def _in_box(points, blocks, lower, upper, center=None):
    """What a builder made, with the sides of its box as boundary facets."""
    return (
        points,
        blocks,
        partial(builders.sides, points, *builders.box_corners(lower, upper, len(points))),
        center,
    )


def _given_center(center, centroid):
    center = floats(center, "center must be an array of numbers")
    if center.shape != centroid.shape or not np.isfinite(center).all():
        raise InputError(
            f"center must be finite numbers of shape {centroid.shape}, one point for each cell, "
            f"not {center.shape}: {center!r:.60}"
        )
    return center


def _say_where_nothing_passes(made, face, n_cells):
    """Warn of walls without thickness, and of pieces that do not touch: few users mean them."""
    count, gap = count_thin_walls(made)
    if count:
        warn(
            f"{count} faces of the boundary lie beside others that face them, at up to {gap:.1e} "
            "of their size: they are two "
            "sides of a wall, through which nothing passes. If these cells should touch, round "
            "the points (numpy.round) or "
            "make the parts fit; merge=False says that the wall is meant"
        )
    n_pieces = int(patches.pieces(face, n_cells).max()) + 1
    if n_pieces > 1:
        warn(
            f"the mesh consists of {n_pieces} pieces that do not touch: nothing moves from one to "
            "another"
        )


def _whole(points, blocks, facets=None, center=None, regions=None, *, rule, strict, merge, n_ranks):
    """Everything about a mesh in its file's numbering, cut into the parts of the ranks: (parts,
    meta).
    """
    made = join_cells(connect(points, blocks), facets, merge)
    if made.n_merged:
        opened = f"; faces called {', '.join(map(repr, made.opened))} are now inside the mesh, in mesh.interfaces"
        warn(
            f"{made.n_merged} points of the mesh lie where others do, and were merged with "
            f"them{opened * bool(made.opened)}"
            ". merge=False keeps them apart, as walls between the cells"
        )
    cells = made.cells
    regions = _given_regions(regions, cells.n_cells)
    volume, centroid, face = faces.build_faces(cells, made.facets, made.halves)
    if merge:
        check_conforming(made)
        _say_where_nothing_passes(made, face, cells.n_cells)
    move = None
    if center is None:
        center = power_centers.find_cell_points(cells, centroid)
        move = partial(power_centers.find_ordered_centers, cells, volume, centroid, face, center)
    else:
        center = _given_center(center, centroid)
    report, center, left, right = quality.make_admissible(
        volume, centroid, center, face, strict, move
    )
    report = replace(report, n_merged=made.n_merged, n_hanging=made.n_hanging)
    two_point = TwoPoint(volume, center, face, left, right)
    choice = choose_patches(rule, cells, centroid, two_point)
    report = quality.add_patch_test(report, two_point, choice)
    levels = patches.coarser_levels(choice.patch, two_point.graph)
    whole = partition.Whole(cells, volume, centroid, center, face, left, right, levels, regions)
    meta = dict(
        names=face.boundary, interfaces=list(face.interfaces), regions=list(regions), quality=report
    )
    return partition.parts(whole, n_ranks), meta
