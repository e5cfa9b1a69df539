"""Which faces a name means: facets by their points, or by functions of places."""

from typing import Any, NamedTuple

import numpy as np

from ..arguments.types import IntArray
from ..errors import MeshError, warn
from .cells import face_keys


class FaceNames(NamedTuple):
    """The names of faces. Boundary faces that have the same names are a set."""

    order: IntArray  # (n_boundary,) the boundary faces by sets
    ends: IntArray  # (n_sets + 1,) where each set begins in that order
    boundary: dict[Any, tuple[int, ...]]  # name -> numbers of its sets
    interfaces: dict[Any, IntArray]  # name -> inner faces


def name_faces(
    boundary: IntArray, inner: IntArray, facets: dict[Any, Any], n_points: int
) -> FaceNames:
    """Names of faces from the points (width, n) of boundary and inner ones.

    facets : {name: points (width, n) of each face}, as in `build_faces`; warns of those that are no
        faces
    """
    rest = _choose_rest_name(facets)
    names = sorted(
        {rest, *facets}, key=lambda name: (name != "boundary", isinstance(name, str), name)
    )
    wanted = [_check_facets(name, points, boundary) for name, points in facets.items()]
    number = [names.index(name) for name in facets]
    owner = np.repeat(number, [points.shape[1] for points in wanted]).astype(np.int64)
    all_wanted = join_faces([np.empty((len(boundary), 0), np.int64), *wanted])

    face = match_faces(boundary, all_wanted, n_points)
    other = np.flatnonzero(face < 0)
    within = match_faces(inner, all_wanted[:, other], n_points)
    _warn_of_missing(names, owner, owner[other[within < 0]])
    interfaces = {
        names[i]: np.unique(within[(owner[other] == i) & (within >= 0)])
        for i in np.unique(owner[other[within >= 0]])
    }

    n_boundary = boundary.shape[1]
    unnamed = np.setdiff1d(np.arange(n_boundary), face)
    named = np.concatenate([face[face >= 0], unnamed])
    name = np.concatenate([owner[face >= 0], np.full(len(unnamed), names.index(rest))])
    pairs = np.unique(named * len(names) + name)
    named, name = np.divmod(pairs, len(names))
    set_number, sets = _number_sets(named, name, n_boundary, len(names))

    order = np.argsort(set_number, kind="stable")
    ends = np.searchsorted(set_number[order], np.arange(len(sets) + 1))
    sets_of_name = {
        name: tuple(k for k, members in enumerate(sets) if i in members)
        for i, name in enumerate(names)
    }
    used = {name: numbers for name, numbers in sets_of_name.items() if numbers}
    return FaceNames(order, ends, used, interfaces)


def _choose_rest_name(facets):
    """The name of boundary faces that have no other: "boundary", unless that is taken."""
    rest = "boundary"
    while rest in facets:
        rest = f"rest of {rest}"
    return rest


def join_faces(parts: list[IntArray]) -> IntArray:
    """Points (width, n) of faces of different widths in one array; -1 fills up."""
    width = max(len(part) for part in parts)
    padded = [np.pad(part, ((0, width - len(part)), (0, 0)), constant_values=-1) for part in parts]
    return np.concatenate(padded, axis=1)


def match_faces(vertices: IntArray, wanted: IntArray, n_points: int) -> IntArray:
    """For each of the facets *wanted* (width, m) the face (width, n) that has the same points, or
    -1.
    """
    n = vertices.shape[1]
    if n == 0 or not wanted.shape[1]:
        return np.full(wanted.shape[1], -1)
    both = join_faces([vertices, wanted])
    key, wanted_key = np.split(face_keys(both, n_points), [n])
    # Keys leave out the lowest of four points.
    lowest, wanted_lowest = np.split(both.min(axis=0), [n])
    order = np.argsort(key)
    face = order[np.minimum(np.searchsorted(key[order], wanted_key), n - 1)]
    return np.where((key[face] == wanted_key) & (lowest[face] == wanted_lowest), face, -1)


def _warn_of_missing(names, owner, lost):
    """Warn of facets that are no faces of cells, with their numbers by name."""
    if len(lost):
        count = np.bincount(owner, minlength=len(names))
        parts = [f"{names[i]!r} ({n} of {count[i]})" for i, n in enumerate(np.bincount(lost)) if n]
        warn(
            f"some of the named faces are not faces of cells, and are left out: {', '.join(parts)}"
        )


def _number_sets(face, name, n_faces, n_names):
    """The number of the set of names of each face (n_faces,), and the sets, in the order of their
    members.

    face, name : which face has which name, sorted, at least one name for each face
    """
    first = np.searchsorted(face, np.arange(n_faces))
    count = np.diff(np.append(first, len(face)))
    number = np.zeros(n_faces, np.int64)
    for j in range(count.max(initial=0)):
        has_more = count > j
        nth_name = np.zeros(n_faces, np.int64)
        nth_name[has_more] = 1 + name[first[has_more] + j]
        key = number * (n_names + 1) + nth_name
        number = np.unique(key, return_inverse=True)[1].reshape(n_faces)
    examples = np.unique(number, return_index=True)[1]
    return number, [set(name[first[i] : first[i] + count[i]].tolist()) for i in examples]


def _check_facets(name, points, vertices):
    """The points of faces of a name as an array."""
    points = np.asarray(points)
    most = max(len(vertices), 4 if len(vertices) > 2 else 0)
    fits = points.ndim == 2 and min(len(vertices), 3) <= len(points) <= most
    if not fits or not np.issubdtype(points.dtype, np.integer):
        raise MeshError(
            f"boundary {name!r} must be the points of faces, an array of integers "
            f"({len(vertices)}, n), not {points.dtype} of shape {points.shape}"
        )
    return points
