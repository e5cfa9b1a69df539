"""What a mesh file has in it, whatever its format: points in space, elements of all dimensions,
groups of them.
"""

from dataclasses import dataclass

import numpy as np

CORNERS = {
    "vertex": 1,
    "line": 2,
    "triangle": 3,
    "quad": 4,
    "tetra": 4,
    "hexahedron": 8,
    "wedge": 6,
    "pyramid": 5,
}
DIMENSION = {
    "vertex": 0,
    "line": 1,
    "triangle": 2,
    "quad": 2,
    "polygon": 2,
    "tetra": 3,
    "hexahedron": 3,
    "wedge": 3,
    "pyramid": 3,
}


@dataclass(frozen=True)
class Contents:
    """Points and elements: element k is of the kind names[kind[k]], with the points
    corners[start[k]:start[k + 1]].

    A name of digits after that of a kind, as in "triangle6", is one with further points on its
    sides, corners first.
    """

    points: np.ndarray  # (3, n_points)
    names: list  # of the kinds; those that no mesh can have are described instead
    dims: np.ndarray  # (n_kinds,) their dimensions
    kind: np.ndarray  # (n,)
    start: np.ndarray  # (n + 1,)
    corners: np.ndarray  # (start[-1],)
    groups: dict  # {(dimension, name or number): elements}

    @classmethod
    def of(cls, points, blocks, groups):
        """From points (3, n_points), blocks [(kind, dimension, (n, n_corners) or a list of rows)],
        and groups.
        """
        names = list(dict.fromkeys(name for name, _, _ in blocks))
        dims = dict((name, dim) for name, dim, _ in blocks)
        number = [names.index(name) for name, _, _ in blocks]
        kind = np.repeat(number, [len(rows) for _, _, rows in blocks])
        count = [
            np.full(len(rows), rows.shape[1])
            if isinstance(rows, np.ndarray)
            else [len(row) for row in rows]
            for _, _, rows in blocks
        ]
        corners = [
            rows.ravel() if isinstance(rows, np.ndarray) else np.concatenate(rows)
            for _, _, rows in blocks
            if len(rows)
        ]
        start = np.concatenate([[0], np.cumsum(np.concatenate([*count, []]))]).astype(np.int64)
        return cls(
            points,
            names,
            np.array([dims[name] for name in names], int),
            kind.astype(np.int64),
            start,
            np.concatenate([*corners, np.empty(0, np.int64)]).astype(np.int64),
            groups,
        )

    def numbers(self, dim):
        """The elements of that dimension."""
        return np.flatnonzero(self.dims[self.kind] == dim)

    def blocks(self, elements):
        """[(kind, connectivity)] of elements, in their order: one block for each run of a kind;
        corners only.
        """
        if not len(elements):
            return []
        kind = self.kind[elements]
        ends = np.concatenate([[0], np.flatnonzero(np.diff(kind)) + 1, [len(kind)]])
        return [
            (base(self.names[kind[a]]), self._rows(elements[a:b]))
            for a, b in zip(ends[:-1], ends[1:])
        ]

    def _rows(self, elements):
        name = base(self.names[self.kind[elements[0]]])
        if name == "polygon":
            return [self.corners[self.start[k] : self.start[k + 1]] for k in elements]
        return self.corners[self.start[elements][:, None] + np.arange(CORNERS[name])]


def base(name):
    """The kind with straight sides: "triangle" of "triangle6"."""
    return name.rstrip("0123456789")
