"""Which faces a name means: facets by their points, or by functions of places."""

import numpy as np

from ..errors import MeshError, warn
from .cells import face_keys


def name_faces(boundary, inner, facets, n_points):
    """Names of faces from the points (width, n) of boundary and inner ones, and from *facets* as
    `build_faces` has them.

    (an order of the boundary faces by the sets of names that they have, where each set begins in
    it, {name: numbers of its sets}, {name: inner faces}). Warns of facets that are no faces.
    """
    rest = "boundary"
    while rest in facets:
        rest = f"rest of {rest}"
    names = sorted(
        {rest, *facets}, key=lambda name: (name != "boundary", isinstance(name, str), name)
    )
    wanted = [_facets(name, points, boundary) for name, points in facets.items()]
    owner = np.repeat(
        [names.index(name) for name in facets], [points.shape[1] for points in wanted]
    )
    owner = owner.astype(np.int64)
    wanted = side_by_side([np.empty((len(boundary), 0), np.int64), *wanted])

    face = _matches(boundary, wanted, n_points)
    other = np.flatnonzero(face < 0)
    within = _matches(inner, wanted[:, other], n_points)
    _say_what_is_missing(names, owner, owner[other[within < 0]])
    interfaces = {
        names[i]: np.unique(within[(owner[other] == i) & (within >= 0)])
        for i in np.unique(owner[other[within >= 0]])
    }

    unnamed = np.setdiff1d(np.arange(boundary.shape[1]), face)
    named = np.concatenate([face[face >= 0], unnamed])
    name = np.concatenate([owner[face >= 0], np.full(len(unnamed), names.index(rest))])
    pairs = np.unique(named * len(names) + name)
    number, sets = _sets(*np.divmod(pairs, len(names)), boundary.shape[1], len(names))
    order = np.argsort(number, kind="stable")
    ends = np.searchsorted(number[order], np.arange(len(sets) + 1))
    found = {
        name: tuple(k for k, members in enumerate(sets) if i in members)
        for i, name in enumerate(names)
    }
    return order, ends, {name: members for name, members in found.items() if members}, interfaces


def side_by_side(parts):
    """Points (width, n) of faces of different widths in one array; -1 fills up."""
    width = max(len(part) for part in parts)
    return np.concatenate(
        [np.pad(part, ((0, width - len(part)), (0, 0)), constant_values=-1) for part in parts],
        axis=1,
    )


def _matches(vertices, wanted, n_points):
    """For each of the facets *wanted* (width, m) the face (width, n) that has the same points, or
    -1.
    """
    n = vertices.shape[1]
    if n == 0 or not wanted.shape[1]:
        return np.full(wanted.shape[1], -1)
    both = side_by_side([vertices, wanted])
    key, wanted_key = np.split(face_keys(both, n_points), [n])
    lowest, wanted_lowest = np.split(
        both.min(axis=0), [n]
    )  # which the keys of four points leave out
    order = np.argsort(key)
    face = order[np.minimum(np.searchsorted(key[order], wanted_key), n - 1)]
    return np.where((key[face] == wanted_key) & (lowest[face] == wanted_lowest), face, -1)


def _say_what_is_missing(names, owner, lost):
    """Warn of facets that are no faces of cells, with their numbers by name."""
    if len(lost):
        count = np.bincount(owner, minlength=len(names))
        parts = [f"{names[i]!r} ({n} of {count[i]})" for i, n in enumerate(np.bincount(lost)) if n]
        warn(
            "some of the faces that have a name are no faces of cells, and are left out: "
            f"{', '.join(parts)}"
        )


def _sets(face, name, n_faces, n_names):
    """The number of the set of names of each face (n_faces,), and the sets, in the order of their
    members.

    face, name : which face has which name, sorted, at least one name for each face
    """
    first = np.searchsorted(face, np.arange(n_faces))
    count = np.diff(np.append(first, len(face)))
    number = np.zeros(n_faces, np.int64)
    for j in range(count.max(initial=0)):
        nth = np.zeros(n_faces, np.int64)
        nth[count > j] = 1 + name[first[count > j] + j]
        number = np.unique(number * (n_names + 1) + nth, return_inverse=True)[1].reshape(n_faces)
    some = np.unique(number, return_index=True)[1]
    return number, [set(name[first[i] : first[i] + count[i]].tolist()) for i in some]


def _facets(name, points, vertices):
    points = np.asarray(points)
    most = max(len(vertices), 4 if len(vertices) > 2 else 0)
    fits = points.ndim == 2 and min(len(vertices), 3) <= len(points) <= most
    if not fits or not np.issubdtype(points.dtype, np.integer):
        raise MeshError(
            f"boundary {name!r} must be the points of faces, an array of integers "
            f"({len(vertices)}, n), "
            f"not {points.dtype} of shape {points.shape}"
        )
    return points
