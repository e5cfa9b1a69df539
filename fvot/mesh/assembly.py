"""Meshes from their pieces: from points, cells and named faces on rank 0 to a `Mesh` on all ranks.

What is built is of the class that the functions get, or of that of the mesh that they get.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .. import parallel
from ..arguments.functions import as_floats, is_integer
from ..arguments.types import Array, ArrayLike, Coordinates
from ..errors import InputError, warn
from . import (
    builders,
    cartesian,
    faces,
    gathering,
    partition,
    patches,
    power_centers,
    quality,
    refined_part,
)
from . import refine as cuts
from .cells import connect
from .coordinates import check_coordinates, weigh
from .joining import check_conforming, count_thin_walls, join_cells
from .memory import AnyMesh
from .patch_choice import add_patch_test, choose_patches
from .patch_test import TwoPoint

# What a user may give for patches: "auto", "none", a number of cells, numbers of patches, or a
# function of the centroids that returns these.
Patches: TypeAlias = ArrayLike | Callable[[Array], ArrayLike]


# Up to so many cells a finer mesh is made whole on rank 0, where its patches are chosen as for any
# other mesh; larger ones are cut where they lie.
MAX_WHOLE_CELLS = 100_000

# The same where cell points are out of order: weights that put them in order are found there.
MAX_SEARCHED_CELLS = 1_000_000

# The bytes per cell that no mesh does without: finished ones take 300 to 470, and while they are
# made twice that and more.
LEAST_CELL_BYTES = 300


class MeshInput(NamedTuple):
    """What a mesh is made of, in the order of its file."""

    points: Array
    blocks: Any  # [(type name, connectivity), ...]
    facets: Any = None  # {name: points (width, n) of each face}, or a function of faces' points
    center: Any = None  # (dim, n_cells); None to choose them
    regions: Any = None  # {name: numbers of cells, or a mask}
    others: Any = None  # (dim, n_cells), of cells that are no simplices, where center is None


# ---- the ways to a mesh ----------------------------------------------------------------------


def build_cartesian(
    cls: type,
    lower: Any,
    upper: Any,
    shape: tuple,
    periodic: Any,
    comm: Any,
    patches: Patches,
    strict: bool = True,
    coordinates: Coordinates = "cartesian",
) -> AnyMesh:
    """A Cartesian mesh, of which each rank makes its own block; collective."""
    ranks = parallel.Ranks(comm)
    _check_strict(ranks, strict)
    with ranks.raising_together():
        if not isinstance(patches, str) or patches not in ("auto", "none"):
            raise InputError(
                f"patches of a Cartesian mesh are its cells: 'auto' or 'none', not {patches!r:.60}"
            )
        check_coordinates(coordinates, len(shape), periodic)
        part, meta, block = cartesian.make(ranks, lower, upper, shape, periodic)

    ranks.check_same(
        "what a Cartesian mesh is made of",
        dict(
            lower=np.array(lower).tolist(),
            upper=np.array(upper).tolist(),
            shape=block.grid,
            periodic=block.periodic,
            coordinates=coordinates,
        ),
    )
    finer = partial(
        _rebuild_cartesian,
        lower=lower,
        upper=upper,
        shape=tuple(2 * n for n in block.grid),
        periodic=periodic,
        patches=patches,
        coordinates=coordinates,
    )
    part, meta = weigh(ranks, part, meta, coordinates)
    return cls(ranks, part, **meta, block=block, finer=finer, coordinates=coordinates)


def build_box(
    cls: type,
    lower: Any,
    upper: Any,
    shape: Any,
    edges: Any,
    periodic: Any,
    comm: Any,
    patches: Patches,
    strict: bool,
    *,
    dim: int,
    coordinates: Coordinates = "cartesian",
) -> AnyMesh:
    """Equal cells of a box, by `build_cartesian`, or those between edges; collective."""
    by_shape = [lower, upper, shape]
    n_given = sum(part is not None for part in by_shape)
    if edges is None:
        if n_given < len(by_shape):
            raise InputError("give lower and upper ends and numbers of cells, or edges=")
        shape = check_box_shape(shape, dim)
        return build_cartesian(
            cls, lower, upper, shape, periodic, comm, patches, strict, coordinates
        )

    if n_given:
        raise InputError("edges= says where all cells are: give no ends and numbers of cells")
    if np.any(periodic):
        raise InputError("edges= goes with walls, not with periodic=True")

    def make() -> MeshInput:
        check_coordinates(coordinates, dim)
        checked = builders.check_edges(edges, dim)
        points, blocks = builders.build_between_edges(checked)
        return name_box_sides(points, blocks, points[:, 0], points[:, -1])

    given = dict(edges=edges, coordinates=coordinates)
    return build_mesh(cls, make, comm, patches, strict, given=given, coordinates=coordinates)


def _rebuild_cartesian(mesh, **arguments):
    return build_cartesian(type(mesh), comm=mesh.ranks.comm, **arguments)


def coarsen_cartesian(mesh: AnyMesh, shape: tuple[int, ...]) -> AnyMesh:
    """A Cartesian mesh of the same box with another shape, on the same ranks; collective."""
    lower, upper = mesh.bounds
    return build_cartesian(
        type(mesh), lower, upper, shape, mesh.block.periodic, mesh.ranks.comm, "auto"
    )


def build_mesh(
    cls: type,
    make: Callable[[], MeshInput],
    comm: Any,
    patches: Patches,
    strict: bool,
    *,
    finer: Callable | None = None,
    merge: bool = False,
    given: dict[str, Any] | None = None,
    coordinates: Coordinates = "cartesian",
) -> AnyMesh:
    """The mesh of what make() returns on rank 0, dealt out to the ranks; collective.

    finer : the function of the mesh that refines it; None to cut each of its cells
    given : what users gave, by names: it must be the same on every rank, of which the first is used
    """
    ranks = parallel.Ranks(comm)
    _check_strict(ranks, strict)
    if given is not None:
        check_given(ranks, {**given, "patches": patches, "strict": strict, "merge": merge})
    result = ranks.on_root(lambda: _assemble(make(), patches, strict, merge, ranks.size))
    parts, meta = result if ranks.is_root else (None, None)
    if finer is None:
        finer = partial(refine_cells, patches=patches, strict=strict)
    part = ranks.send_parts(parts)
    meta = ranks.broadcast(meta)
    part, meta = weigh(ranks, part, meta, coordinates)
    return cls(ranks, part, **meta, finer=finer, coordinates=coordinates)


def build_refined(
    cls: type,
    make: Callable[[], MeshInput],
    times: Any,
    comm: Any,
    patches: Patches,
    strict: bool,
    merge: bool,
) -> AnyMesh:
    """The mesh of what make() returns on rank 0, refined so many times; collective.

    While it has few cells, rank 0 refines it before it deals it out: there may be less cells than
    ranks at first.
    """
    ranks = parallel.Ranks(comm)
    ranks.check(
        is_integer(times) and times >= 0,
        f"refine, how many times every cell is cut, must be a whole number from 0 on, not "
        f"{times!r:.60}",
    )
    ranks.check_same("refine", int(times))
    done = 0

    def make_finer() -> MeshInput:
        nonlocal done
        given = make()
        dim = len(given.points)
        n_cells = sum(len(rows) for _, rows in given.blocks)
        _check_memory(n_cells, dim, int(times), memory)
        done = min(times, count_whole_cuts(n_cells, dim))
        if not done:
            return given

        alone = ranks.alone()
        mesh = build_mesh(cls, lambda: given, alone.comm, "none", True, merge=merge)
        for _ in range(done - 1):
            mesh = _refine_whole(mesh, "none", True)
        return _cut_whole(gathering.gather_mesh(mesh), gathering.gather_regions(mesh))

    rule = keep_patch_rule(patches) if times else patches
    if not times:
        return build_mesh(cls, make, comm, rule, strict, merge=merge, given={})
    memory = ranks.count_memory()
    mesh = build_mesh(cls, make_finer, comm, rule, strict, merge=merge, given={})
    for _ in range(times - ranks.broadcast(done)):
        mesh = mesh.refine()
    return mesh


def _check_memory(n_cells, dim, times, memory):
    """Refuse meshes for which the computers surely have too little memory, in bytes."""
    # As logarithms: the number of cells may be beyond all floats.
    log_count = math.log10(max(n_cells, 1)) + dim * times * math.log10(2)
    log_bytes = log_count + math.log10(LEAST_CELL_BYTES)
    if log_bytes <= math.log10(memory):
        return

    often, power = ("once", "") if times == 1 else (f"{times} times", f"^{times}")
    raise InputError(
        f"refined {often}, the mesh of {n_cells} cells would have {n_cells} x {2**dim}{power} "
        f"= {_write_power(log_count)} cells, and need at least {_write_power(log_bytes - 9)} GB of "
        f"memory, of which the ranks' computers have {memory / 1e9:.1f} GB: refine it less often, "
        "or take ranks on more computers"
    )


def _write_power(log):
    """10^log in two digits."""
    exponent = math.floor(log)
    return f"{10 ** (log - exponent):.1f}e{exponent}"


def count_whole_cuts(n_cells: int, dim: int) -> int:
    """How many times a mesh of so many cells is refined on rank 0."""
    count = 0
    while n_cells * 2 ** (dim * (count + 1)) <= MAX_WHOLE_CELLS:
        count += 1
    return count


def refine_cells(mesh: AnyMesh, patches: Patches, strict: bool) -> AnyMesh:
    """The mesh with every cell cut in 2^dim; collective."""
    rule = keep_patch_rule(patches)
    n_cells = 2**mesh.dim * mesh.n_cells_global
    if n_cells <= MAX_WHOLE_CELLS:
        return _refine_whole(mesh, rule, strict)

    _check_memory(mesh.n_cells_global, mesh.dim, 1, mesh.ranks.count_memory())
    follows = rule is patches
    part, known = refined_part.refine_part(mesh, rule, strict, follows)
    if known["quality"].n_negative and n_cells <= MAX_SEARCHED_CELLS:
        return _refine_whole(mesh, rule, strict)
    part, known = weigh(mesh.ranks, part, known, mesh.coordinates)
    finer = partial(refine_cells, patches=rule, strict=strict)
    return type(mesh)(mesh.ranks, part, **known, finer=finer, coordinates=mesh.coordinates)


def _refine_whole(mesh, rule, strict):
    """The same, by rank 0: patches and cell points are chosen for the whole mesh."""
    whole = gathering.gather_mesh(mesh)
    regions = gathering.gather_regions(mesh)

    make = partial(_cut_whole, whole, regions)
    return build_mesh(type(mesh), make, mesh.ranks.comm, rule, strict, coordinates=mesh.coordinates)


def _cut_whole(whole, regions):
    """The `MeshInput` of a whole mesh with every cell cut."""
    finer = cuts.split_cells(*whole)
    finer_regions = cuts.split_regions(regions, 2 ** len(finer.points))
    return MeshInput(finer.points, finer.blocks, finer.facets, None, finer_regions)


def cut_into_kites(mesh: AnyMesh) -> AnyMesh:
    """The mesh of acute triangles with each of them cut in three kites; collective."""
    whole = gathering.gather_mesh(mesh)
    regions = gathering.gather_regions(mesh)

    def cut():
        points, _, _, corners, facets = whole
        return cuts.cut_kites(points, corners, facets)

    result: Any = mesh.ranks.on_root(cut) or (None,) * 5
    points, blocks, facets, center, patches = result

    def make():
        finer_regions = cuts.split_regions(regions, 3)
        return MeshInput(points, blocks, facets, center, finer_regions)

    return build_mesh(type(mesh), make, mesh.ranks.comm, patches, True)


def rebuild_voronoi(mesh: AnyMesh, **arguments: Any) -> AnyMesh:
    """Another Voronoi mesh, on the same ranks; collective."""
    return type(mesh).voronoi(**arguments, comm=mesh.ranks.comm)


def keep_patch_rule(patches: Patches) -> Any:
    """The rule for patches that a finer mesh takes over: numbers of patches do not fit there, and
    become "auto".
    """
    if callable(patches) or np.ndim(patches) > 0:
        return "auto"
    return patches


def name_box_sides(
    points: Array, blocks: Any, lower: Any, upper: Any, center: Array | None = None
) -> MeshInput:
    """What a builder has made, with the sides of its box as names of boundary faces."""
    corners = builders.check_box(lower, upper, len(points))
    find_sides = partial(builders.find_sides, points, *corners)
    return MeshInput(points, blocks, find_sides, center)


# ---- arguments ----------------------------------------------------------------------


def check_box_shape(shape: Any, dim: int) -> tuple:
    """The numbers of cells along the axes of a box, as a tuple of that length."""
    if np.shape(shape) != (dim,):
        raise InputError(f"shape must be {dim} numbers of cells, not {shape!r}")
    return tuple(shape)


def check_mesh_points(points: Any) -> Array:
    """Points (dim, n) of a mesh as an array."""
    array = as_floats(points, "points must be an array of numbers")
    if array.ndim != 2 or not 1 <= len(array) <= 3:
        raise InputError(
            f"points must have shape (dim, n) with dim 1, 2 or 3, not {array.shape}; space comes "
            "first"
        )
    return array


def check_named_parts(parts: Any, what: str) -> dict | None:
    """Parts by name: a dict, or None."""
    if parts is not None and not isinstance(parts, dict):
        members = {"boundary": "points of the faces", "regions": "cells"}[what]
        raise InputError(f"{what} must be a dict, {{name: {members}}}, not {parts!r:.60}")
    return parts


def check_given(ranks: parallel.Ranks, given: dict[str, Any]) -> None:
    """`InputError` on every rank unless all give the same, functions apart. Collective."""
    if ranks.size == 1:
        return
    digests = ranks.comm.allgather([_digest(value) for value in given.values()])
    for rank, other in enumerate(digests):
        for name, mine, theirs in zip(given, digests[0], other):
            if mine != theirs:
                raise InputError(
                    f"{name} of a mesh must be the same on every rank: on rank {rank} it is not "
                    "that of rank 0; comm.bcast gives all what one of them has"
                )


def _digest(value):
    """A text that is the same for values that mean the same."""
    if value is None or isinstance(value, (str, bool)):
        return repr(value)
    if isinstance(value, dict):
        return str({repr(key): _digest(part) for key, part in value.items()})

    try:
        return _digest_numbers([np.asarray(value)])
    except (TypeError, ValueError):
        pass
    if not isinstance(value, (list, tuple)):
        return type(value).__name__  # a function, say
    try:
        return _digest_numbers([np.asarray(row) for row in value])  # of different lengths
    except (TypeError, ValueError):
        return str([_digest(part) for part in value])


def _digest_numbers(arrays):
    """Of arrays of numbers or masks; `TypeError` for others."""
    digest = hashlib.sha256()
    for array in arrays:
        if array.dtype.kind not in "biuf":
            raise TypeError
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array, float).tobytes())
    return digest.hexdigest()


def _check_strict(ranks, strict):
    ranks.check(
        isinstance(strict, (bool, np.bool_)), f"strict must be True or False, not {strict!r:.60}"
    )


def _check_regions(regions, n_cells):
    """{name: numbers of cells, sorted}, from numbers or masks."""
    checked = {}
    for name, cells in (regions or {}).items():
        array = np.asarray(cells)
        if array.dtype == bool and array.shape == (n_cells,):
            array = np.flatnonzero(array)
        numbers = _check_region(name, array, n_cells)
        checked[name] = np.unique(numbers.astype(np.int64))
    return checked


def _check_region(name, cells, n_cells):
    if cells.ndim != 1 or len(cells) and not np.issubdtype(cells.dtype, np.integer):
        raise InputError(
            f"region {name!r} must be numbers of cells (n,), or a mask ({n_cells},), not "
            f"{cells.dtype} of shape {cells.shape}"
        )
    is_wrong = (cells < 0) | (cells >= n_cells)
    bad = cells[is_wrong]
    if len(bad):
        raise InputError(
            f"region {name!r} names cell {bad[0]}, but there are {n_cells} cells, from 0 on"
        )
    return cells


def _check_center(center, centroid):
    center = as_floats(center, "center must be an array of numbers")
    if center.shape != centroid.shape or not np.isfinite(center).all():
        raise InputError(
            f"center must be finite numbers of shape {centroid.shape}, one point for each cell, "
            f"not {center.shape}: {center!r:.60}"
        )
    return center


# ---- the whole mesh, on rank 0 ----------------------------------------------------------------


def _assemble(mesh_input, rule, strict, merge, n_ranks):
    """The whole mesh, cut into the parts of the ranks: (parts, what all ranks know)."""
    # What serves the whole mesh alone, such as half-faces, is gone when the parts are made.
    whole, meta = _build_whole(mesh_input, rule, strict, merge)
    return partition.build_parts(whole, n_ranks), meta


def _build_whole(mesh_input, rule, strict, merge):
    """The `WholeMesh` in its file's numbering, and what all ranks know."""
    given_cells = connect(mesh_input.points, mesh_input.blocks)
    joint = join_cells(given_cells, mesh_input.facets, merge)
    _warn_of_merged_points(joint)
    cells = joint.cells
    regions = _check_regions(mesh_input.regions, cells.n_cells)
    volume, centroid, face = faces.build_faces(cells, joint.facets, joint.halves)
    if merge:
        check_conforming(cells.points, face, centroid)
        _warn_of_walls_and_gaps(face, centroid)

    move = None
    if mesh_input.center is None:
        # Circumcentres of simplices, and centroids of other cells, make the two-point flux
        # consistent.
        others = centroid if mesh_input.others is None else mesh_input.others
        center = power_centers.place_centers(cells, others)
        move = partial(power_centers.find_ordered_centers, cells, volume, centroid, face, center)
    else:
        center = _check_center(mesh_input.center, centroid)
    report, center, left, right = quality.make_admissible(
        volume, centroid, center, face, strict, move
    )

    two_point = TwoPoint(volume, center, face, left, right)
    report = replace(
        report,
        n_merged=joint.n_merged,
        n_hanging=joint.n_hanging,
        tangent_rms=two_point.tangent_rms,
    )
    choice = choose_patches(rule, cells, centroid, two_point, report.suits_two_point)
    report = add_patch_test(report, two_point, choice)

    levels = patches.build_levels(choice.patch, two_point.graph)
    whole = partition.WholeMesh(cells, volume, centroid, center, face, left, right, levels, regions)
    meta = dict(
        names=face.boundary,
        interfaces=list(face.interfaces),
        regions=list(regions),
        quality=report,
    )
    return whole, meta


def _warn_of_merged_points(joint):
    if not joint.n_merged:
        return
    opened = ""
    if joint.opened:
        names = ", ".join(map(repr, joint.opened))
        opened = f"; faces called {names} are now inside the mesh, in mesh.interfaces"
    warn(
        f"{joint.n_merged} points of the mesh coincide with others, and were merged with "
        f"them{opened}. merge=False keeps them apart, as walls between the cells"
    )


def _warn_of_walls_and_gaps(face, centroid):
    """Warn of walls without thickness, and of pieces that do not touch: few users mean them."""
    count, gap = count_thin_walls(face, centroid)
    if count:
        warn(
            f"{count} faces of the boundary lie beside others that face them, at up to {gap:.1e} "
            "of their size: they are two sides of a wall, through which nothing passes. If these "
            "cells should touch, round the points (numpy.round) or make the parts fit; "
            "merge=False states that the wall is intended"
        )
    piece = patches.number_components(face, centroid.shape[1])
    n_pieces = int(piece.max()) + 1
    if n_pieces > 1:
        warn(
            f"the mesh consists of {n_pieces} pieces that do not touch: nothing moves from one to "
            "another"
        )
