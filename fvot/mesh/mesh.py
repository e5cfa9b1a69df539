"""`Mesh`: this rank's part of a mesh as plain, read-only numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import parallel
from ..arguments.frozen import frozen
from ..arguments.functions import refuse_masked
from ..arguments.types import (
    Array,
    ArrayLike,
    BoolArray,
    Coordinates,
    IntArray,
    Path,
    PointFunction,
)
from . import builders, cell_values, density_input, gathering, geodesic_distance, means, removal
from .assembly import (
    MeshInput,
    Patches,
    build_box,
    build_mesh,
    build_refined,
    check_mesh_points,
    check_named_parts,
    cut_into_kites,
    keep_patch_rule,
    name_box_sides,
    rebuild_voronoi,
)
from .cartesian import Block
from .cell_values import check_cell_values
from .cells import TETRA, TRIANGLE
from .coordinates import flat_areas, flat_volumes
from .groups import Parts
from .point_masses import deposit_masses, draw_points
from .points import check_points, find_cells, find_nearest, locate_points
from .quality import Quality
from .read import read
from .walls import Walls

# What the message about an unknown part of the boundary adds in radial coordinates.
AXIS_HINT = "; faces at r = 0 are no part of it: nothing crosses them"


@frozen
class Mesh:
    """A mesh, distributed over the ranks of a communicator.

    The arrays hold this rank's own cells and the faces that touch them. Meshes are made by
    `interval`, `rectangle`, `box`, `triangles`, `tetrahedra`, `voronoi`, `read` and `from_cells`.
    These and all methods that need other ranks are collective: every rank must call them.

    Attributes
    ----------
    dim, n_cells, n_cells_global, n_faces, n_inner : int
        Numbers; n_inner counts the faces that have two cells. Lengths below are in the units of
        the points.
    volume, center, centroid : array (n_cells,), (dim, n_cells), (dim, n_cells)
        Measure |K|, point x_K and centroid of each cell. The points are circumcentres of
        simplices (power centres where those are not in the order of their cells), generators of
        Voronoi cells, else centroids.
    left, right : array (n_faces,)
        The cells on both sides; numbers from n_cells on are ghosts, right is -1 on the boundary.
    area, normal : array (n_faces,), (dim, n_faces)
        Measure and unit normal, from left to right, or outwards.
    distance, left_distance, right_distance : array (n_faces,)
        From x_K to x_L along the normal (to the face on the boundary), and the part of it on
        each side.
    left_offset, right_offset : array (dim, n_faces)
        From the cells' centroids to the face's centroid.
    face_owned : array (n_faces,)
        Whether the face counts here in sums over all faces: its left cell is this rank's own.
    boundary : {name: faces}
        The boundary faces of each name, a slice or (where names overlap) an index array. Groups
        of a file that have no name have their number, ``mesh.boundary[11]``; faces in no group
        are called "boundary".
    interfaces : {name: faces}
        The inner faces of groups that lie inside the mesh.
    regions : {name: cells}
        The cells of each group, index arrays; a cell may be in several, or in none.
    bounds : array (2, dim)
        Lower and upper corner of the box around the whole mesh.
    coordinates : str
        "cartesian"; or "cylindrical" or "spherical", where volumes and areas are those of rings
        and shells around r = 0 (see `interval` and `rectangle`).
    has_simplices : bool
        Whether all cells are triangles or all are tetrahedra.
    first_row : int
        The number of this rank's first cell where cells are counted rank by rank, as PETSc
        numbers rows.
    parent_cell : array (n_cells,)
        For a mesh made by `without`: the numbers in the file of the mesh that it was cut from.
    cell_id : array (n_local,)
        The number in the file of each cell, own cells first, then ghosts.
    patch, levels : array (n_cells,), (n_levels, n_cells)
        Global numbers of the patch, and of ever larger patches, of each cell.
    corrects_weights : bool
        Whether transport with two-point fluxes corrects the weights of faces so that patches are
        isotropic.

    Notes
    -----
    Two arguments of all functions that make meshes decide how solvers work on them:

    patches
        The patches of cells on which densities of optimal transport live: a number of cells for
        each, their numbers (n_cells_global,), or a function of the centroids (dim,
        n_cells_global) that returns these. "auto" is pairs on triangles (fours where these are
        irregular and fluxes go to corners), 8 or 16 on tetrahedra of a file, single cells where
        these are regular or fluxes go to corners, else one to 2^dim cells, the more the finer the
        mesh is. "none" is single cells. ``mesh.quality.patch_moment`` says how lopsided they are.
    strict
        Whether what needs two-point fluxes (potential flow, gradient flows of order 1,
        ``scheme="two_point"``) refuses the mesh (`MeshError`) where faces of signed distance < 0
        remain when power centres are taken for the cell points near them. False clips these
        distances, with a warning. Distances of 0, as of right triangles, are replaced by small
        positive ones. Points that you give in `center` must be in order at once. Flows, and what
        has fluxes to corners, take any mesh.

    Examples
    --------
    >>> from fvot import Mesh
    >>> mesh = Mesh.rectangle((0, 0), (2, 1), (20, 10))
    >>> rho = mesh.density(lambda x: x[0] < 1)
    >>> round(mesh.integrate(rho * mesh.center[0]), 12)
    0.5
    """

    dim: int
    n_cells: int
    n_cells_global: int
    n_local: int
    n_faces: int
    n_inner: int
    volume: Array
    center: Array
    centroid: Array
    left: IntArray
    right: IntArray
    area: Array
    normal: Array
    left_distance: Array
    right_distance: Array
    left_offset: Array
    right_offset: Array
    face_center: Array
    points: Array
    cell_id: IntArray
    ghost_owner: IntArray
    levels: IntArray

    def __init__(
        self,
        ranks: parallel.Ranks,
        part: dict[str, Any],
        *,
        names: dict,
        quality: Quality | None,
        interfaces: Any = (),
        regions: Any = (),
        block: Block | None = None,
        finer: Any = None,
        coordinates: Coordinates = "cartesian",
    ):
        self.ranks = ranks
        self.block = block
        self.coordinates = coordinates
        self._finer = finer
        self._quality: Any = quality
        self._names = names

        # Meshes of agglomerates have no quality; transport on them does correct the weights.
        self.corrects_weights = quality is None or quality.corrects_weights
        self.near_order: IntArray | None = None
        for name, array in part.items():
            setattr(self, name, _freeze(array))
        self.dim, self.n_cells = self.center.shape
        self.n_local = len(self.cell_id)
        self.n_faces = len(self.area)
        self.distance = _freeze(self.left_distance + self.right_distance)
        self.face_owned = _freeze(self.left < self.n_cells)
        self.patch = self.levels[0]

        ends = part["boundary_ends"]
        self.n_inner = int(ends[1])
        boundary = {name: _find_faces(sets, ends[1:]) for name, sets in names.items()}
        self.boundary = Parts(boundary, "boundary", names)
        self.interfaces = Parts(
            _split_by_name(interfaces, part, "interface_faces", "interface_ends"), "interface"
        )
        self.regions = Parts(_split_by_name(regions, part, "region_cells", "region_ends"), "region")

        n_simplices = np.isin(part.get("kind", ()), (TRIANGLE, TETRA)).sum()
        counts = ranks.all_gather(np.array([self.n_cells, n_simplices]))
        self.n_cells_global = int(counts[::2].sum())
        self.first_row = int(counts[: 2 * ranks.rank : 2].sum())
        self.has_simplices = int(counts[1::2].sum()) == self.n_cells_global
        if "points" in part:  # meshes of agglomerates have none
            lower = ranks.min(self.points.min(axis=1))
            upper = ranks.max(self.points.max(axis=1))
            self.bounds = _freeze(np.stack([lower, upper]))
            if coordinates != "cartesian" and lower[0] == 0:
                self.boundary.hint = AXIS_HINT

        own = self.cell_id[: self.n_cells]
        ghosts = self.cell_id[self.n_cells :]
        self.exchange = parallel.Exchange.ghosts(ranks, own, ghosts, self.ghost_owner)

    # ---- how meshes are made ---------------------------------------------------------------------

    @classmethod
    def interval(
        cls,
        a: float | None = None,
        b: float | None = None,
        n: int | None = None,
        *,
        edges: ArrayLike | None = None,
        coordinates: Coordinates = "cartesian",
        periodic: bool = False,
        comm: Any = None,
        patches: Patches = "auto",
        strict: bool = True,
    ) -> Mesh:
        """The interval from a to b in n equal cells, or between edges; its ends are "left" and
        "right". Collective.

        Parameters
        ----------
        a, b : float
            The ends, a < b.
        n : int
            The number of cells.
        edges : array (n + 1,), optional
            The ends of all cells, increasing, in place of a, b and n.
        coordinates : {"cartesian", "cylindrical", "spherical"}, optional
            What x is: a place on a line, or a radius r >= 0 of circles (for each unit of length
            along the axis) or of spheres. Cells between radii have the volumes pi (r2^2 - r1^2) or
            4/3 pi (r2^3 - r1^3), faces the areas 2 pi r or 4 pi r^2. An end at r = 0 is no part of
            the boundary: nothing crosses it.
        periodic : bool, optional
            Whether the ends are one point.
        comm : MPI communicator, optional
            The ranks that share the mesh; None for all.
        patches : {"auto", "none"}, optional
            The patches for optimal transport, which are single cells; with edges as in `Mesh`.
        strict : bool, optional
            Without effect: these meshes are always admissible.

        Returns
        -------
        Mesh

        Raises
        ------
        InputError
            For ends that are not finite with a < b, for fewer cells than ranks, for fewer than 3
            cells if periodic, and for radii below 0.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.interval(0, 1, 4)
        >>> mesh.center.tolist()
        [[0.125, 0.375, 0.625, 0.875]]
        >>> list(mesh.boundary)
        ['left', 'right']

        A ball, from the middle outwards:

        >>> ball = Mesh.interval(0, 1, 4, coordinates="spherical")
        >>> round(ball.integrate(1.0) * 3 / 4, 6), list(ball.boundary)
        (3.141593, ['right'])
        """
        shape = None if n is None else (n,)
        axes = None if edges is None else [edges]
        return build_box(
            cls, a, b, shape, axes, periodic, comm, patches, strict, dim=1, coordinates=coordinates
        )

    @classmethod
    def rectangle(
        cls,
        lower: ArrayLike | None = None,
        upper: ArrayLike | None = None,
        shape: tuple[int, int] | None = None,
        *,
        edges: Sequence[ArrayLike] | None = None,
        coordinates: Coordinates = "cartesian",
        periodic: bool | tuple[bool, bool] = False,
        comm: Any = None,
        patches: Patches = "auto",
        strict: bool = True,
    ) -> Mesh:
        """Equal rectangles, or those between edges; sides "left", "right", "bottom", "top".

        Collective.

        Cells are numbered in C order: a gathered u has ``u.reshape(shape)[i, j]`` at the i-th
        place in x.

        Parameters
        ----------
        lower, upper : (x, y)
            The corners of the box.
        shape : (nx, ny)
            The numbers of cells along the axes.
        edges : [x, y], optional
            The sides of all cells along each axis, increasing, in place of lower, upper and shape.
        coordinates : {"cartesian", "cylindrical"}, optional
            What (x, y) are: places in the plane, or (r, z) of rings around the axis r = 0. Rings
            have the volumes pi (r2^2 - r1^2) dz, faces the areas 2 pi r dz or pi (r2^2 - r1^2).
            Vectors and velocities are (v_r, v_z). A side at r = 0 is no part of the boundary:
            nothing crosses it.
        periodic : bool or one per axis, optional
            Whether opposite sides are joined.
        comm : MPI communicator, optional
            The ranks that share the mesh; None for all.
        patches : {"auto", "none"}, optional
            The patches for optimal transport, which are single cells; with edges as in `Mesh`.
        strict : bool, optional
            Without effect: these meshes are always admissible.

        Returns
        -------
        Mesh

        Raises
        ------
        InputError
            For a box or a shape that cannot be used, for cells that cannot be distributed over so
            many ranks, for fewer than 3 cells along a periodic axis, and for radii below 0 or
            periodic ones.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.rectangle((0, 0), (3, 2), (3, 2))
        >>> mesh.gather(mesh.center[0]).reshape(3, 2).tolist()
        [[0.5, 0.5], [1.5, 1.5], [2.5, 2.5]]
        >>> list(mesh.boundary)
        ['left', 'right', 'bottom', 'top']

        Thin cells at a wall:

        >>> mesh = Mesh.rectangle(edges=[[0, 0.1, 0.3, 1], [0, 1, 2]])
        >>> mesh.volume.round(12).tolist()
        [0.1, 0.1, 0.2, 0.2, 0.7, 0.7]

        A pipe of radius 1 and length 3:

        >>> pipe = Mesh.rectangle((0, 0), (1, 3), (4, 6), coordinates="cylindrical")
        >>> round(pipe.integrate(1.0) / 3, 6), list(pipe.boundary)
        (3.141593, ['right', 'bottom', 'top'])
        """
        return build_box(
            cls,
            lower,
            upper,
            shape,
            edges,
            periodic,
            comm,
            patches,
            strict,
            dim=2,
            coordinates=coordinates,
        )

    @classmethod
    def box(
        cls,
        lower: ArrayLike | None = None,
        upper: ArrayLike | None = None,
        shape: tuple[int, int, int] | None = None,
        *,
        edges: Sequence[ArrayLike] | None = None,
        periodic: bool | tuple[bool, bool, bool] = False,
        comm: Any = None,
        patches: Patches = "auto",
        strict: bool = True,
    ) -> Mesh:
        """Equal boxes, or those between edges; sides "left", "right" (x), "front", "back" (y),
        "bottom", "top" (z). Collective.

        Parameters
        ----------
        lower, upper : (x, y, z)
            The corners of the box.
        shape : (nx, ny, nz)
            The numbers of cells along the axes, in C order as in `rectangle`.
        edges : [x, y, z], optional
            The sides of all cells along each axis, increasing, in place of lower, upper and shape.
        periodic : bool or one per axis, optional
            Whether opposite sides are joined.
        comm : MPI communicator, optional
            The ranks that share the mesh; None for all.
        patches : {"auto", "none"}, optional
            The patches for optimal transport, which are single cells; with edges as in `Mesh`.
        strict : bool, optional
            Without effect: these meshes are always admissible.

        Returns
        -------
        Mesh

        Raises
        ------
        InputError
            As `rectangle` does.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.box((0, 0, 0), (1, 1, 2), (2, 2, 4), periodic=(False, False, True))
        >>> mesh.n_cells_global
        16
        >>> list(mesh.boundary)
        ['left', 'right', 'front', 'back']
        """
        return build_box(cls, lower, upper, shape, edges, periodic, comm, patches, strict, dim=3)

    @classmethod
    def triangles(
        cls,
        lower: ArrayLike,
        upper: ArrayLike,
        n: int,
        *,
        comm: Any = None,
        patches: Patches = "auto",
        strict: bool = True,
    ) -> Mesh:
        """Acute isosceles triangles in shifted rows; sides named as those of `rectangle`.

        The triangles at the left and the right wall are halves, with a right angle. Collective.

        Parameters
        ----------
        lower, upper : (x, y)
            The corners of the box.
        n : int
            The number of triangles along x.
        comm : MPI communicator, optional
            The ranks that share the mesh; None for all.
        patches : "auto", "none", int, array or function, optional
            The patches of cells for optimal transport, see `Mesh`.
        strict : bool, optional
            Whether to refuse a mesh that is not admissible, see `Mesh`.

        Returns
        -------
        Mesh

        Raises
        ------
        InputError
            For a box or patches that cannot be used, and for an n that is so small that the
            triangles would be obtuse.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.triangles((0, 0), (1, 1), 4)
        >>> mesh.n_cells_global
        36
        >>> round(mesh.integrate(1.0), 12)
        1.0
        """

        def make() -> MeshInput:
            return name_box_sides(*builders.build_triangles(lower, upper, n), lower, upper)

        given = dict(lower=lower, upper=upper, n=n)
        return build_mesh(cls, make, comm, patches, strict, given=given)

    @classmethod
    def tetrahedra(
        cls,
        lower: ArrayLike,
        upper: ArrayLike,
        n: int,
        *,
        comm: Any = None,
        patches: Patches = "auto",
        strict: bool = True,
    ) -> Mesh:
        """Sommerville's tetrahedra, twelve to a cube; sides named as those of `box`.

        Four of them surround each face of a cube; those of faces on the walls are half as large and
        lie inside. Collective.

        Parameters
        ----------
        lower, upper : (x, y, z)
            The corners of the box.
        n : int
            The number of cubes along x; they are the patches, if "auto".
        comm : MPI communicator, optional
            The ranks that share the mesh; None for all.
        patches : "auto", "none", int, array or function, optional
            The patches of cells for optimal transport, see `Mesh`.
        strict : bool, optional
            Whether to refuse a mesh that is not admissible, see `Mesh`.

        Returns
        -------
        Mesh

        Raises
        ------
        InputError
            For a box or patches that cannot be used, and for an n whose "cubes" are too long for
            tetrahedra.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.tetrahedra((0, 0, 0), (1, 1, 1), 2)
        >>> mesh.has_simplices
        True
        >>> round(mesh.integrate(1.0), 12)
        1.0
        """
        if isinstance(patches, str) and patches == "auto":
            patches = builders.build_cube_rule(lower, upper, n)

        def make() -> MeshInput:
            points, blocks, center = builders.build_tetrahedra(lower, upper, n)
            return name_box_sides(points, blocks, lower, upper, center)

        given = dict(lower=lower, upper=upper, n=n)
        return build_mesh(cls, make, comm, patches, strict, given=given)

    @classmethod
    def voronoi(
        cls,
        lower: ArrayLike,
        upper: ArrayLike,
        n_cells: int,
        seed: int = 0,
        *,
        comm: Any = None,
        patches: Patches = "auto",
        strict: bool = True,
    ) -> Mesh:
        """Centroidal Voronoi polygons of a rectangle; sides named as those of `rectangle`.

        Collective.

        Parameters
        ----------
        lower, upper : (x, y)
            The corners of the box.
        n_cells : int
            The number of cells.
        seed : int, optional
            Of the random generators with which Lloyd's iteration starts.
        comm : MPI communicator, optional
            The ranks that share the mesh; None for all.
        patches : "auto", "none", int, array or function, optional
            The patches of cells for optimal transport, see `Mesh`.
        strict : bool, optional
            Whether to refuse a mesh that is not admissible, see `Mesh`.

        Returns
        -------
        Mesh

        Raises
        ------
        InputError
            For a box, a number of cells or patches that cannot be used.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.voronoi((0, 0), (1, 1), 10)
        >>> mesh.n_cells_global
        10
        >>> round(mesh.integrate(1.0), 12)
        1.0
        """

        def make() -> MeshInput:
            points, blocks, center = builders.build_voronoi(lower, upper, n_cells, seed)
            return name_box_sides(points, blocks, lower, upper, center)

        finer = partial(
            rebuild_voronoi,
            lower=lower,
            upper=upper,
            n_cells=4 * n_cells,
            seed=seed,
            patches=keep_patch_rule(patches),
            strict=strict,
        )
        given = dict(lower=lower, upper=upper, n_cells=n_cells, seed=seed)
        return build_mesh(cls, make, comm, patches, strict, finer=finer, given=given)

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        refine: int = 0,
        merge: bool = True,
        comm: Any = None,
        patches: Patches = "auto",
        strict: bool = True,
    ) -> Mesh:
        """A mesh from a file of Gmsh, of VTK, or of a format that meshio reads. Collective.

        Gmsh's files are .msh; VTK's are .vtk, .vtu, .pvtu, .vtp, .vts, .vti, .vtr and .vtkhdf.

        Cells are those of the highest dimension, in the order of the file. Groups of faces name the
        `boundary` and the `interfaces`, groups of cells are `regions`: Gmsh's physical groups, sets
        of cells of other formats, and in VTK's the numbers in a cell array "gmsh:physical",
        "medit:ref", "CellEntityIds", "MaterialIds", "material", "region" or "cell_tags", the first
        that there is (0 is none). Flat meshes may lie in any plane.

        Parameters
        ----------
        path : str or Path
            The file.
        refine : int, optional
            How many times to `refine` the mesh. Only the file's own mesh has to fit into the memory
            of one rank. Patches that are an array become "auto".
        merge : bool, optional
            As in `from_cells`.
        comm : MPI communicator, optional
            The ranks that share the mesh; None for all.
        patches : "auto", "none", int, array or function, optional
            The patches of cells for optimal transport, see `Mesh`.
        strict : bool, optional
            Whether to refuse a mesh that is not admissible, see `Mesh`.

        Returns
        -------
        Mesh

        Raises
        ------
        InputError
            For a file that cannot be read, for cells that cannot be refined, and where the refined
            mesh is larger than the memory of the computers.
        MeshError
            For a mesh that cannot be used.

        Examples
        --------
        >>> import os, tempfile
        >>> import meshio
        >>> from fvot import Mesh
        >>> path = os.path.join(tempfile.mkdtemp(), "triangle.vtk")
        >>> points = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.8, 0.0]]
        >>> meshio.write_points_cells(path, points, [("triangle", [[0, 1, 2]])])
        >>> Mesh.read(path).volume.round(6).tolist()
        [0.4]
        >>> Mesh.read(path, refine=1).volume.round(6).tolist()
        [0.1, 0.1, 0.1, 0.1]
        """

        def make() -> MeshInput:
            points, blocks, facets, regions = read(path)
            return MeshInput(points, blocks, facets, None, regions)

        return build_refined(cls, make, refine, comm, patches, strict, merge)

    @classmethod
    def from_cells(
        cls,
        points: ArrayLike,
        cells: list,
        *,
        boundary: dict | None = None,
        regions: dict | None = None,
        center: ArrayLike | None = None,
        merge: bool = True,
        comm: Any = None,
        patches: Patches = "auto",
        strict: bool = True,
    ) -> Mesh:
        """A mesh from points and cells, the same on every rank. Collective.

        Corners may be listed in either orientation. In the plane a cell may have the points of
        smaller neighbours on its edges (hanging nodes): it becomes a polygon with these as corners,
        too. In 3D such cells are refused.

        Parameters
        ----------
        points : array (dim, n)
            The points.
        cells : [(type, connectivity), ...]
            The cells, by types as meshio names them; polygons as lists.
        boundary : {name: array (width, n)}, optional
            The points of each face of that name. All others are called "boundary"; inner faces
            are `interfaces`.
        regions : {name: cells}, optional
            Numbers (n,) or a mask (n_cells,).
        center : array (dim, n_cells), optional
            The points x_K, in place of circumcentres and centroids.
        merge : bool, optional
            Whether points of the boundary that coincide up to round-off are the same point; one
            warning gives their number. False keeps them apart, so that cells on both sides have a
            wall between them (a crack).
        comm : MPI communicator, optional
            The ranks that share the mesh; None for all.
        patches : "auto", "none", int, array or function, optional
            The patches of cells for optimal transport, see `Mesh`.
        strict : bool, optional
            Whether to refuse a mesh that is not admissible, see `Mesh`.

        Returns
        -------
        Mesh

        Raises
        ------
        InputError
            For points, parts, centres or patches of a shape or type that cannot be used, or not the
            same on every rank.
        MeshError
            For cells that are flat or tangled, lie on the same side of a face, or do not match.
            Cells that overlap without a common face are not detected.

        Examples
        --------
        >>> from fvot import Mesh
        >>> points = [[0, 1, 1, 0], [0, 0, 1, 1]]
        >>> mesh = Mesh.from_cells(points, [("quad", [[0, 1, 2, 3]])])
        >>> mesh.n_cells_global
        1
        """

        def make() -> MeshInput:
            return MeshInput(
                check_mesh_points(points),
                cells,
                check_named_parts(boundary, "boundary"),
                center,
                check_named_parts(regions, "regions"),
            )

        given = dict(points=points, cells=cells, boundary=boundary, regions=regions, center=center)
        return build_mesh(cls, make, comm, patches, strict, merge=merge, given=given)

    def _with_part(self, part):
        """The same mesh of other arrays, as `Numbering` makes them."""
        return Mesh(
            self.ranks,
            part,
            names=self._names,
            quality=self._quality,
            interfaces=list(self.interfaces),
            regions=list(self.regions),
            coordinates=self.coordinates,
        )

    # ---- functions on it -------------------------------------------------------------------------

    def average(self, f: PointFunction, degree: int = 4) -> Array:
        """Cell averages of f(x), by Gauss rules. Collective.

        An f that returns booleans (an indicator) is averaged by halving the cells that its edge
        cuts.

        Parameters
        ----------
        f : function
            f(x) of points x (dim, n), with numbers or booleans (..., n) as values.
        degree : int, optional
            The rules are exact for polynomials of that degree.

        Returns
        -------
        array (..., n_cells)
            The averages, of this rank's cells.

        Raises
        ------
        InputError
            On every rank, for values of f that are not numbers, or not one for each point.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.interval(0, 1, 2)
        >>> mesh.average(lambda x: 12 * x[0] ** 2).round(12).tolist()
        [1.0, 7.0]
        >>> mesh.average(lambda x: x[0] < 0.25).tolist()
        [0.5, 0.0]
        """
        return means.average_over_cells(self, f, degree)

    def density(self, f: Any) -> Array:
        """Cell averages (n_cells,), scaled to mass 1. Collective.

        A picture is averaged exactly over Cartesian cells, else by Gauss points in pieces a quarter
        of a pixel wide (as long as these are not too many). In two dimensions (2, n) are points,
        not a picture of two columns; (n, 2) is refused.

        Parameters
        ----------
        f : function, array or path
            - a function f(x) of x (dim, n), with numbers or booleans as values;
            - an array (n_cells,): the values in this rank's cells;
            - an array (dim, n): n points of equal mass, the same on every rank (see `deposit`);
            - an array of dim axes, 2 or 3: a picture over the bounding box of the whole mesh, the
              same on every rank; picture[i, j] is the i-th place in x and the j-th in y, as on
              `rectangle`;
            - a path (str or Path) of an image file (png, jpg, ...): its grey levels, upright, over
              the bounding box of a plane mesh. Light is mass: black and transparent are 0.

        Returns
        -------
        array (n_cells,)
            The density, mass per volume, in this rank's cells.

        Raises
        ------
        InputError
            Where values are negative or not finite, of a shape that is none of these or is
            ambiguous, or all zero.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.interval(0, 1, 4)
        >>> mesh.density(lambda x: x[0] < 0.5).tolist()
        [2.0, 2.0, 0.0, 0.0]
        >>> mesh.density([[0.1, 0.9]]).tolist()
        [2.0, 0.0, 0.0, 2.0]
        """
        return density_input.compute_density(self, f)

    def deposit(self, points: ArrayLike, weights: ArrayLike | None = None) -> Array:
        """Cell averages of point masses: each mass goes to the cell that holds its point.

        A point on a face belongs to one of its cells, the same on any number of ranks. Points may
        lie outside the mesh by 1e-9 of its size, and anywhere along a periodic axis. The total mass
        is exact to round-off. Collective.

        Parameters
        ----------
        points : array (dim, n)
            The same on every rank.
        weights : array (n,), optional
            The same on every rank; None for 1 / n each.

        Returns
        -------
        array (n_cells,)
            Mass per volume, in this rank's cells.

        Raises
        ------
        InputError
            For points outside the mesh, and for points or weights that are not finite numbers of
            these shapes or not the same on every rank.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.interval(0, 1, 4)
        >>> mesh.deposit([[0.1, 0.2, 0.6]], [1.0, 2.0, 1.0]).tolist()
        [12.0, 0.0, 4.0, 0.0]
        """
        return deposit_masses(self, points, weights)

    def to_points(self, rho: Array, k: int = 1) -> tuple[Array, Array]:
        """Point masses of a density: the inverse of `deposit`. Collective.

        Parameters
        ----------
        rho : array (n_cells,)
            The density.
        k : int, optional
            At least so many points for each cell. 1: its centroid; else the centroids of equal
            parts of its simplices, or of the box that it is. Cells without mass have none. The mass
            and its centre are exact.

        Returns
        -------
        points, weights : array (dim, n), (n,)
            The same on every rank, in the order of the cells in the file.

        Raises
        ------
        InputError
            If rho is not a density, or would be more than 10^8 points.

        Examples
        --------
        >>> import numpy as np
        >>> from fvot import Mesh
        >>> mesh = Mesh.interval(0, 1, 4)
        >>> points, weights = mesh.to_points(np.array([2.0, 0.0, 0.0, 2.0]))
        >>> points.tolist(), weights.tolist()
        ([[0.125, 0.875]], [0.5, 0.5])
        """
        return draw_points(self, rho, k)

    def geodesic_distance(self, points: ArrayLike, others: ArrayLike | None = None) -> Array:
        """Lengths of the shortest paths inside the mesh. Collective.

        Straight lines where nothing is in the way. Otherwise, in the plane, exact paths around the
        corners of the walls (a visibility graph: Lozano-Perez, Wesley 1979). In 3D paths go through
        about 1000 sample points on the walls' edges, or two on each edge; the error is quadratic in
        their spacing. Along periodic axes the shortest path counts.

        Parameters
        ----------
        points : array (dim, n)
            The starting points; the same on every rank.
        others : array (dim, m), optional
            The end points; None for the same points.

        Returns
        -------
        array (n, m)
            The lengths, the same on every rank.

        Raises
        ------
        InputError
            For points outside the mesh, for more than 10^8 pairs, and where no path leads from one
            to another.

        Examples
        --------
        >>> from fvot import Mesh
        >>> frame = Mesh.rectangle((0, 0), (3, 3), (3, 3)).without([4])
        >>> frame.geodesic_distance([[0.5], [1.5]], [[2.5], [1.5]]).round(6).tolist()
        [[2.414214]]
        """
        self.ranks.check_same("whether others are given", others is None)
        start = check_points(self, points)
        end = start if others is None else check_points(self, others)
        return geodesic_distance.find_lengths(self, start, end)

    def nearest(self, points: ArrayLike) -> Array:
        """The point of the mesh nearest to each of the points. Collective.

        A point inside is its own nearest one. Along periodic axes points may be anywhere, and stay
        where they are.

        Parameters
        ----------
        points : array (dim, n)
            Points anywhere, the same on every rank.

        Returns
        -------
        array (dim, n)
            The nearest points, the same on every rank.

        Raises
        ------
        InputError
            For points that are not finite numbers of this shape or not the same on every rank.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.rectangle((0, 0), (1, 1), (4, 4))
        >>> mesh.nearest([[0.3, 2.0], [0.6, 0.5]]).tolist()
        [[0.3, 1.0], [0.6, 0.5]]
        """
        return find_nearest(self, check_points(self, points))

    def locate(self, points: ArrayLike) -> IntArray:
        """The numbers of this rank's cells that hold points. Collective.

        Each point is in one cell of one rank (see `deposit`).

        Parameters
        ----------
        points : array (dim, n)
            Points of the mesh, the same on every rank.

        Returns
        -------
        array (n,)
            The numbers; -1 for points of another rank.

        Raises
        ------
        InputError
            For points outside the mesh.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.interval(0, 1, 4)
        >>> mesh.locate([[0.1, 0.6]]).tolist()
        [0, 2]
        """
        return locate_points(self, check_points(self, points))

    def find(self, points: ArrayLike) -> tuple[IntArray, BoolArray]:
        """The cells that hold points, and which of the points are inside the mesh. Collective.

        Parameters
        ----------
        points : array (dim, n)
            Points anywhere, the same on every rank.

        Returns
        -------
        cell : array (n,)
            The numbers of this rank's cells, as `locate` finds them; -1 for points of another rank
            and for points outside the mesh.
        inside : array (n,)
            Whether the point is inside the mesh, the same on every rank.

        Raises
        ------
        InputError
            For points that are not finite numbers of this shape or not the same on every rank.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.interval(0, 1, 4)
        >>> cell, inside = mesh.find([[0.1, 1.6]])
        >>> cell.tolist(), inside.tolist()
        ([0, -1], [True, False])
        """
        return find_cells(self, check_points(self, points))

    @cached_property
    def walls(self) -> Walls:
        """The walls of the whole mesh as simplices, on every rank.

        Collective at the first use.

        Returns
        -------
        Walls
            Its `corner` (n, dim, dim) has the corners of each end, segment or triangle, and its
            `normal` (n, dim) points outwards; `find_nearest` takes an array of points (dim, n) to
            their nearest points on the walls (dim, n).

        Examples
        --------
        >>> import numpy as np
        >>> from fvot import Mesh
        >>> walls = Mesh.rectangle((0, 0), (1, 1), (2, 2)).walls
        >>> walls.corner.shape
        (8, 2, 2)
        >>> walls.find_nearest(np.array([[0.9], [0.6]])).tolist()
        [[1.0], [0.6]]
        """
        return Walls.gather(self)

    @property
    def flat_volume(self) -> Array:
        """The measures of the cells in the plane of their points, for widths: `volume` itself, but
        lengths or areas without the factor of radial coordinates.

        Returns
        -------
        array (n_cells,)
            Lengths, areas or volumes.

        Examples
        --------
        >>> from fvot import Mesh
        >>> Mesh.interval(0, 1, 4, coordinates="spherical").flat_volume.tolist()
        [0.25, 0.25, 0.25, 0.25]
        """
        return flat_volumes(self)

    @property
    def flat_area(self) -> Array:
        """The measures of the faces in the same way: `area`, or lengths in the plane of (r, z).

        Returns
        -------
        array (n_faces,)
            Areas or lengths; 1 in 1D.

        Examples
        --------
        >>> from fvot import Mesh
        >>> Mesh.interval(0, 1, 2, coordinates="cylindrical").flat_area.tolist()
        [1.0, 1.0, 1.0]
        """
        return flat_areas(self)

    def integrate(self, u: ArrayLike) -> Any:
        """The integral sum_K |K| u_K of cell values. Collective.

        Parameters
        ----------
        u : array (..., n_cells)
            Values in this rank's cells, or one number for all cells.

        Returns
        -------
        float or array (...)
            The integral over the whole mesh, the same on every rank.

        Raises
        ------
        InputError
            On every rank, for arrays of another shape and for masked ones.

        Examples
        --------
        >>> import numpy as np
        >>> from fvot import Mesh
        >>> mesh = Mesh.interval(0, 2, 4)
        >>> mesh.integrate(mesh.center[0])
        2.0
        >>> mesh.integrate(np.stack([mesh.center[0], np.ones(mesh.n_cells)])).tolist()
        [2.0, 2.0]
        """
        check_cell_values(self, u)
        return cell_values.integrate(self, u)

    def gather(self, u: ArrayLike) -> Array:
        """Cell values of all ranks, in the file's numbering, on every rank. Collective.

        Parameters
        ----------
        u : array (..., n_cells)
            Values in this rank's cells, or one number for all cells.

        Returns
        -------
        array (..., n_cells_global)
            The values in all cells.

        Raises
        ------
        InputError
            On every rank, for arrays of another shape and for masked ones.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.interval(0, 1, 4)
        >>> mesh.gather(mesh.center[0]).tolist()
        [0.125, 0.375, 0.625, 0.875]
        """
        check_cell_values(self, u)
        values = np.asarray(u)
        return cell_values.gather(self, np.broadcast_to(values, (*values.shape[:-1], self.n_cells)))

    def scatter(self, u: ArrayLike) -> Array:
        """This rank's part of cell values in the file's numbering: the inverse of `gather`.

        Collective.

        Parameters
        ----------
        u : array (..., n_cells_global)
            Values in all cells.

        Returns
        -------
        array (..., n_cells)
            The values in this rank's cells.

        Raises
        ------
        InputError
            On every rank, for arrays of another shape and for masked ones.

        Examples
        --------
        >>> import numpy as np
        >>> from fvot import Mesh
        >>> mesh = Mesh.interval(0, 1, 4)
        >>> u = np.array([3.0, 1.0, 4.0, 1.0])
        >>> bool((mesh.gather(mesh.scatter(u)) == u).all())
        True
        """
        with self.ranks.raising_together():
            refuse_masked(u, "cell values must be numbers")
        values = np.asarray(u)
        self.ranks.check(
            values.shape[-1:] == (self.n_cells_global,),
            f"scatter needs {self.n_cells_global} values, one for each "
            f"cell of the mesh; the array has shape {values.shape}",
        )
        return cell_values.scatter(self, values)

    def with_ghosts(self, u: NDArray[Any]) -> NDArray[Any]:
        """Own values followed by those of the ghosts, fetched from their ranks. Collective.

        Parameters
        ----------
        u : array (..., n_cells)
            Values in this rank's cells.

        Returns
        -------
        array (..., n_local)
            The values by local number, to which `left` and `right` point.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.interval(0, 1, 4)
        >>> u = mesh.with_ghosts(mesh.center[0])
        >>> n = mesh.n_inner
        >>> (u[mesh.right[:n]] - u[mesh.left[:n]]).tolist()
        [0.25, 0.25, 0.25]
        """
        local = np.empty(np.shape(u)[:-1] + (self.n_local,), np.asarray(u).dtype)
        local[..., : self.n_cells] = u
        return self.exchange(local)

    def divergence(self, flux: Array) -> Array:
        """(div F)_K = sum over the faces of K of the flux that leaves it, / |K|.

        Not collective.

        Parameters
        ----------
        flux : array (n_faces,)
            The amount that crosses each face per time, along its normal.

        Returns
        -------
        array (n_cells,)
            The divergence in this rank's cells.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.rectangle((0, 0), (1, 1), (4, 4))
        >>> flux = mesh.area * mesh.normal[0] * mesh.face_center[0]
        >>> bool(abs(mesh.divergence(flux) - 1).max() < 1e-12)
        True
        """
        n = self.n_inner
        total = np.bincount(self.left, flux, self.n_local)
        total -= np.bincount(self.right[:n], flux[:n], self.n_local)
        return total[: self.n_cells] / self.volume

    def gradient(self, u: ArrayLike) -> Array:
        """(u_L - u_K) / d_sigma on the inner faces, 0 on the boundary. Collective.

        Parameters
        ----------
        u : array (n_cells,)
            Values in this rank's cells, or one number for all cells.

        Returns
        -------
        array (n_faces,)
            The derivatives along the normals of the faces.

        Raises
        ------
        InputError
            On every rank, for arrays of another shape and for masked ones.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.interval(0, 1, 4)
        >>> mesh.gradient(mesh.center[0] ** 2).tolist()
        [0.5, 1.0, 1.5, 0.0, 0.0]
        """
        check_cell_values(self, u)
        n = self.n_inner
        local = self.with_ghosts(np.asarray(u))
        slope = np.zeros(self.n_faces)
        slope[:n] = (local[self.right[:n]] - local[self.left[:n]]) / self.distance[:n]
        return slope

    @property
    def quality(self) -> Quality:
        """How good the mesh is, and which fluxes suit it: orthogonality and isotropy defects,
        smallest distances, sizes, moments of patches, errors to expect of two-point fluxes.

        Returns
        -------
        Quality
            Numbers by name. Print it for all of them.

        Examples
        --------
        >>> from fvot import Mesh
        >>> quality = Mesh.interval(0, 1, 4).quality
        >>> quality.orthogonality_defect, quality.smallest_distance, quality.transport_scheme
        (0.0, 1.0, 'two-point fluxes')
        """
        return self._quality

    # ---- files and pictures ----------------------------------------------------------------------

    def gather_cells(self) -> tuple[Array, IntArray, IntArray, IntArray] | None:
        """The cells of the whole mesh on rank 0, in VTK's form, for files and pictures.

        Cells are in the file's order. Collective.

        Returns
        -------
        points, kind, start, corners : array (dim, n), (n_cells,), (n_cells + 1,), (n_corners,)
            Cell k is of VTK's type kind[k], and has the points corners[start[k] : start[k + 1]]. On
            other ranks None.

        Examples
        --------
        >>> from fvot import Mesh
        >>> points, kind, start, corners = Mesh.interval(0, 1, 2).gather_cells()
        >>> points.tolist(), corners.tolist()
        ([[0.0, 0.5, 1.0]], [0, 1, 1, 2])
        """
        return gathering.gather_cells(self)

    def write(self, path: Path, fields: Mapping[str, Any] | None = None) -> None:
        """Write the mesh, perhaps with fields, for ParaView.

        Collective.

        Parameters
        ----------
        path : str or pathlib.Path
            A .vtu, one file; or a .pvd or .vtkhdf, as results are written to.
        fields : {name: values}, optional
            Cell values (n_cells,) or (dim, n_cells), or functions of x, taken at the centroids.

        Raises
        ------
        InputError
            On every rank, for a path that cannot be written and for values that are no fields.

        Examples
        --------
        >>> import os, tempfile
        >>> from fvot import Mesh
        >>> mesh = Mesh.triangles((0, 0), (1, 1), 8)
        >>> path = os.path.join(tempfile.mkdtemp(), "mesh.vtu")
        >>> mesh.write(path, {"depth": lambda x: 1 + x[0], "volume": mesh.volume})
        >>> os.path.exists(path)
        True
        """
        from ..output.single import write_mesh

        write_mesh(self, path, fields or {})

    def plot(self, values: Any = None, path: Path | None = None, **options: Any) -> Any:
        """Draw the mesh, with its boundary and regions by name; or values in its cells.

        Collective.

        Parameters
        ----------
        values : array or function, optional
            Cell values (n_cells,) or vectors (dim, n_cells), whose lengths are drawn, or a function
            of x, taken at the centroids. None: the edges of the cells.
        path : str or pathlib.Path, optional
            A .png, .svg or .pdf file; it may come first where there are no values. None: the figure
            is returned, which notebooks show.
        **options
            label : str
                What the values are, beside the colour bar.
            arrows : array (2, n_cells) or function
                Vectors to draw on the values, in 2D.
            clim, cmap, log, along, width, ax
                As for `Result.plot`. Without values: width and ax.

        Returns
        -------
        matplotlib.figure.Figure or None
            The figure, on rank 0, if neither a path nor ax is given.

        Raises
        ------
        InputError
            On every rank, for a path that cannot be written, for values that are no field, and on a
            machine that cannot draw.

        Examples
        --------
        >>> import os, tempfile
        >>> from fvot import Mesh
        >>> mesh = Mesh.interval(0, 1, 8)
        >>> path = os.path.join(tempfile.mkdtemp(), "potential.png")
        >>> mesh.plot(lambda x: x[0] ** 2, path, label="potential")
        >>> os.path.exists(path)
        True
        """
        from ..output.single import plot_mesh, plot_values

        if path is None and isinstance(values, (str, PathLike)):
            values, path = None, values
        if values is None:
            return plot_mesh(self, path, **options)
        return plot_values(self, values, path, **options)

    def to_pyvista(self, fields: Mapping[str, Any] | None = None) -> Any:
        """The whole mesh as a pyvista.UnstructuredGrid, on every rank.

        Collective.

        Parameters
        ----------
        fields : {name: values}, optional
            Cell values (n_cells,) or (dim, n_cells), or functions of x, taken at the centroids.

        Returns
        -------
        pyvista.UnstructuredGrid
            Its cells are in the file's order; `cell_data` has the fields, "cell" and "rank".

        Raises
        ------
        InputError
            On every rank, for values that are no fields.

        Examples
        --------
        >>> from fvot import Mesh
        >>> grid = Mesh.rectangle((0, 0), (1, 1), (4, 4)).to_pyvista({"x": lambda x: x[0]})
        >>> grid.n_cells, grid.cell_data["x"][:4].tolist()
        (16, [0.125, 0.125, 0.125, 0.125])
        """
        from ..output.single import build_pyvista_grid

        return build_pyvista_grid(self, fields or {})

    # ---- other meshes made from it ---------------------------------------------------------------

    def refine(self) -> Mesh:
        """The mesh with every cell cut in 2^dim: results on both meshes estimate the mesh's error.

        Intervals, triangles, quadrilaterals, tetrahedra, wedges and hexahedra are cut at the
        middles of their edges; the children of cell k are cells 2^dim k, 2^dim k + 1, ... in the
        file's numbering. A Cartesian mesh gets twice its shape, and a mesh of `voronoi` is made
        anew, with four times its cells. Boundaries keep their names. Cell points are chosen anew,
        as by `from_cells`; patches that were given as an array become "auto". Collective.

        A mesh that then has more than 100 000 cells is cut where its cells lie, so that no rank has
        to hold it all. It is the same on any number of ranks. Its patches are parts of those of
        this mesh; the two-point energy, corrections of weights and moments of patches in `quality`
        are this mesh's. Of more than 10^6 cells whose points are out of order, no power centres are
        searched for.

        Returns
        -------
        Mesh

        Raises
        ------
        InputError
            For meshes with polygons or pyramids, and where the finer mesh is larger than the memory
            of the computers.
        MeshError
            If the finer mesh is not admissible.

        Examples
        --------
        >>> from fvot import Mesh
        >>> Mesh.interval(0, 1, 2).refine().center.tolist()
        [[0.125, 0.375, 0.625, 0.875]]
        """
        return self._finer(self)

    def without(self, f: Any, *, name: str = "hole") -> Mesh:
        """The mesh without some of its cells. Collective.

        The cells that stay come in their old order, and the new mesh has `parent_cell` (n_cells,),
        their numbers in the file of this one: cell values u go over by ``mesh.gather(u)[...,
        new.parent_cell]``, and on one rank u may stand for mesh.gather(u). Patches are what is left
        of the old ones; cell points are the old ones, but those of simplices are chosen anew, as by
        `from_cells`. The rest of the mesh may fall into pieces. Where f names no cell this is the
        mesh itself.

        Parameters
        ----------
        f : mask, function or numbers
            The cells to leave out: a mask (n_cells,) of this rank's cells, such as
            ``numpy.isnan(F)``; a function f(x) of the cell points (dim, n) that returns one; or
            their numbers in the file, the same on every rank.
        name : str, optional
            The boundary of the faces laid bare. All other faces keep their names.

        Returns
        -------
        Mesh

        Raises
        ------
        InputError
            Where nothing is left, for periodic meshes, and for an f that is none of the three.

        Examples
        --------
        >>> from fvot import Mesh
        >>> mesh = Mesh.rectangle((0, 0), (3, 3), (3, 3))
        >>> frame = mesh.without(lambda x: abs(x - 1.5).max(axis=0) < 0.5)
        >>> frame.n_cells_global, "hole" in frame.boundary
        (8, True)
        >>> frame.parent_cell.tolist()
        [0, 1, 2, 3, 5, 6, 7, 8]
        """
        return removal.remove_cells(self, f, name)

    def kites(self) -> Mesh:
        """The mesh with every triangle cut in three kites around its circumcentre.

        The kites of a vertex are a patch. The density of optimal transport then belongs to the
        vertices: interpolated between them, it is the most accurate one that triangles give, at
        three times the work. Boundaries keep their names. Collective.

        Returns
        -------
        Mesh

        Raises
        ------
        InputError
            Unless all cells are acute triangles.

        Examples
        --------
        >>> import numpy as np
        >>> from fvot import Mesh
        >>> points = [[0, 1, 0.5, 1.5], [0, 0, 0.8, 0.8]]
        >>> mesh = Mesh.from_cells(points, [("triangle", [[0, 1, 2], [1, 3, 2]])])
        >>> kites = mesh.kites()
        >>> kites.n_cells_global, len(np.unique(kites.patch))
        (6, 4)
        """
        self.ranks.check(
            self.dim == 2 and self.has_simplices,
            "only triangles can be cut in kites: this mesh has other cells",
        )
        return cut_into_kites(self)

    def __setstate__(self, state):
        """Be what was copied or pickled: arrays are read-only again."""
        for name, value in state.items():
            vars(self)[name] = _freeze(value) if isinstance(value, np.ndarray) else value

    def __repr__(self):
        plural = "s" * (self.ranks.size > 1)
        where = f"{self.ranks.size} rank{plural}"
        kind = "" if self.coordinates == "cartesian" else f", {self.coordinates},"
        return f"<fvot.Mesh: {self.n_cells_global} cells in {self.dim}D{kind} on {where}>"


def _freeze(array):
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array


def _find_faces(sets, ends):
    """The faces of a name, which are those of some sets: a slice, on all ranks, if the sets follow
    each other.
    """
    if sets[-1] - sets[0] == len(sets) - 1:
        return slice(int(ends[sets[0]]), int(ends[sets[-1] + 1]))
    return _freeze(np.concatenate([np.arange(ends[k], ends[k + 1]) for k in sets]))


def _split_by_name(names, part, members, ends):
    """{name: numbers} from all numbers in one row, and where those of each name begin."""
    return {name: part[members][part[ends][i] : part[ends][i + 1]] for i, name in enumerate(names)}
