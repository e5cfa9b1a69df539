"""Gmsh's mesh files, .msh 1, 2.0 to 2.2, 4.0 and 4.1, as text and binary: points, elements, and
physical groups.

Groups belong to elements up to version 2, and to the geometric entities that elements lie on from
version 4 on. An element may be in several groups; a negative number is that of a group in which the
entity is reversed. (Gmsh reference manual, "MSH file format" and its "Legacy formats".)

A reader of our own, for want of another: meshio 5 reads neither version 1 nor partitions,
parametric nodes or files of which a part only is in groups; Gmsh's library gives all elements on
one entity the groups of each of them (version 2).
"""

import numpy as np

from ..errors import InputError, warn
from .file_contents import DIMENSION, Contents, base
from .groups import Name

SIMPLE = {
    15: "vertex",
    1: "line",
    2: "triangle",
    3: "quad",
    4: "tetra",
    5: "hexahedron",
    6: "wedge",
    7: "pyramid",
}
CURVED = {  # kind and number of points, corners first
    8: "line3",
    26: "line4",
    27: "line5",
    28: "line6",
    9: "triangle6",
    20: "triangle9",
    21: "triangle10",
    22: "triangle12",
    23: "triangle15",
    24: "triangle15",
    25: "triangle21",
    10: "quad9",
    16: "quad8",
    36: "quad16",
    37: "quad25",
    38: "quad36",
    11: "tetra10",
    29: "tetra20",
    30: "tetra35",
    31: "tetra56",
    12: "hexahedron27",
    17: "hexahedron20",
    92: "hexahedron64",
    93: "hexahedron125",
    13: "wedge18",
    18: "wedge15",
    90: "wedge40",
    91: "wedge75",
    14: "pyramid14",
    19: "pyramid13",
    118: "pyramid30",
    119: "pyramid55",
}
NAMES = SIMPLE | CURVED
N_POINTS = {15: 1, 1: 2, 2: 3, 3: 4, 4: 4, 5: 8, 6: 6, 7: 5} | {
    number: int(name.removeprefix(base(name))) for number, name in CURVED.items()
}
BOM = b"\xef\xbb\xbf"  # some editors put it in front
MARKS = {b"\1\0\0\0": "<", b"\0\0\0\1": ">"}  # the integer 1 with its low byte first, and last
MOST = 2**48  # what counts things is less


class Damaged(Exception):
    """What is wrong with a file."""


def read(path):
    """The `Contents` of a .msh file; `InputError` if it is damaged, or of a version that is not
    known.
    """
    version = None
    try:
        sections = _sections(path.read_bytes().removeprefix(BOM))
        version, stream = _format(sections)
        readers = {1: _read_1, 2: _read_2, 4: _read_4}
        contents = readers[int(version)](sections, stream, version)
    except (Damaged, ValueError, KeyError, OverflowError, IndexError) as error:
        what = "Gmsh's .msh" if version is None else f".msh {version:.1f}"
        reason = str(error) if isinstance(error, Damaged) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path} cannot be read as {what}: {reason}; is the file complete? write it anew, "
            "with Gmsh: "
            f"gmsh {path.name} -0 -format msh41 -o new.msh"
        ) from error
    if sections.get("Periodic", b"").split()[:1] not in ([], [b"0"]):
        warn(
            f"{path} says which of its sides are periodic ($Periodic). fvot does not join them: "
            "they are boundaries as others "
            "are; Mesh.rectangle and Mesh.box have periodic="
        )
    return contents


# ---- sections --------------------------------------------------------------------------------------------------------


def _sections(data):
    """{name: body} of the sections of a file; of those that come again, as $NodeData does, the
    first.
    """
    sections = {}
    at = 0 if data.startswith(b"$") else data.find(b"\n$") + 1
    while at or not sections and data.startswith(b"$"):
        end_of_line = data.find(b"\n", at)
        name = data[at + 1 : end_of_line].strip()
        if end_of_line < 0 or not name.isalnum():
            raise Damaged(f"{data[at : at + 30]!r} does not begin a section")
        end = max(data.find(mark + name, end_of_line) for mark in (b"$End", b"$END"))
        if end < 0:
            raise Damaged(f"its section ${name.decode()} has no end")
        sections.setdefault(name.decode(), data[end_of_line + 1 : end])
        at = data.find(b"\n$", end) + 1
    if not sections:
        raise Damaged("it has no sections, such as $MeshFormat")
    return sections


def _format(sections):
    """(version, a function that makes a stream of a section, by its name)."""

    def text(name):
        return _Text(name, _body(sections, name))

    if "MeshFormat" not in sections:
        if "NOD" in sections:
            return 1.0, text
        raise Damaged("it has no section $MeshFormat")
    line, _, rest = sections["MeshFormat"].partition(b"\n")
    version, is_binary, size = [float(word) for word in line.split()]
    if not (2 <= version < 3 or 4 <= version < 4.2):
        raise Damaged(
            f"version {version:g} is none of those that are known: 1, 2.0 to 2.2, 4.0 and 4.1"
        )
    if not is_binary:
        return version, text
    if rest[:4] not in MARKS or size not in (4, 8):
        raise Damaged("its $MeshFormat does not say how numbers are stored")
    order = MARKS[rest[:4]]
    kinds = {"i": order + "i4", "d": order + "f8", "n": f"{order}i{int(size)}"}
    return version, lambda name: _Bytes(name, _body(sections, name), kinds)


def _body(sections, name):
    if name not in sections:
        raise Damaged(f"it has no section ${name}")
    return sections[name]


class _Text:
    """Numbers of a section, taken from its front: columns of "i" (integers), "n" (sizes), "d"
    (coordinates).
    """

    def __init__(self, name, body):
        self.name = name
        self.numbers = np.array(body.split(), float)
        self.at = 0

    def columns(self, kinds, n):
        """One array (n,) for each letter of kinds, from n rows of them."""
        rows = self.ahead(len(kinds), n)
        self.at += rows.size
        return [
            column.copy() if kind == "d" else _whole(column) for kind, column in zip(kinds, rows.T)
        ]

    def table(self, kind, width, n):
        """Whole numbers (width, n), from n rows of so many."""
        rows = self.ahead(width, n)
        self.at += rows.size
        return _whole(rows).T

    def ahead(self, width, n):
        """The next n rows of so many numbers, which stay there."""
        size = width * _size(n)
        if size > len(self.numbers) - self.at:
            raise Damaged(f"section ${self.name} ends too early, after {len(self.numbers)} numbers")
        return self.numbers[self.at : self.at + size].reshape(int(n), width)

    def count(self):
        """The number of rows, with which sections up to version 2 begin."""
        return _size(self.columns("n", 1)[0][0])

    def elements(self, n, version):
        """(type, tags (n_tags, m), points (n_points, m)) of runs of elements that are alike, n in
        all.

        Up to version 2.
        """
        while n > 0:
            number, n_tags = _whole(self.ahead(3, 1)[0, 1:])
            front = (
                5 if version < 2 else 3 + _size(n_tags)
            )  # 1: number, type, two tags, how many points
            alike = slice(1, 2 if version < 2 else 3)
            width = front + _n_points(number)
            run = 1
            reach = 1
            while (
                run == reach < n
            ):  # a row that begins as the first one is as long: look twice as far each time
                reach = min(2 * reach, n)
                rows = self.ahead(width, min(reach, (len(self.numbers) - self.at) // width))
                other = np.flatnonzero((rows[:, alike] != rows[0, alike]).any(axis=1))
                run = int(other[0]) if len(other) else len(rows)
            rows = self.table("i", width, run)
            n -= run
            yield number, rows[2:4] if version < 2 else rows[3:front], rows[front:]

    def done(self):
        """`Damaged` if numbers are left over."""
        if self.at != len(self.numbers):
            raise Damaged(
                f"section ${self.name} has {len(self.numbers) - self.at} numbers too many"
            )


class _Bytes:
    """The same of a binary section."""

    def __init__(self, name, body, kinds):
        self.name = name
        self.body = body
        self.kinds = kinds
        self.at = 0

    def columns(self, kinds, n):
        """One array (n,) for each letter of kinds, from n rows of them."""
        row = np.dtype([(str(i), self.kinds[kind]) for i, kind in enumerate(kinds)])
        size = row.itemsize * _size(n)
        if size > len(self.body) - self.at:
            raise Damaged(f"section ${self.name} ends too early, after {len(self.body)} bytes")
        rows = np.frombuffer(self.body, row, int(n), self.at)
        self.at += size
        return [
            rows[str(i)].astype(float if kind == "d" else np.int64) for i, kind in enumerate(kinds)
        ]

    def table(self, kind, width, n):
        """Whole numbers (width, n), from n rows of so many."""
        kind = np.dtype(self.kinds[kind])
        size = kind.itemsize * width * _size(n)
        if size > len(self.body) - self.at:
            raise Damaged(f"section ${self.name} ends too early, after {len(self.body)} bytes")
        rows = np.frombuffer(self.body, kind, width * int(n), self.at).reshape(int(n), width)
        self.at += size
        return rows.T.astype(np.int64)

    def count(self):
        """The number of rows: a line of text before the bytes."""
        line = self.body[self.at : self.body.index(b"\n", self.at) + 1]
        self.at += len(line)
        return _size(float(line))

    def elements(self, n, version):
        """The same, of version 2."""
        while n > 0:
            number, run, n_tags = (int(column[0]) for column in self.columns("iii", 1))
            if not 0 < run <= n:
                raise Damaged(f"$Elements has a run of {run} elements where {n} are left")
            rows = self.table("i", 1 + _size(n_tags) + _n_points(number), run)
            n -= run
            yield number, rows[1 : 1 + n_tags], rows[1 + n_tags :]

    def done(self):
        """`Damaged` if bytes are left over."""
        if self.body[self.at :].strip():
            raise Damaged(f"section ${self.name} has {len(self.body) - self.at} bytes too many")


def _whole(numbers):
    if not (np.abs(numbers) < MOST).all() or (numbers != np.floor(numbers)).any():
        raise Damaged("a number that should be whole is not")
    return numbers.astype(np.int64)


def _size(number):
    if not 0 <= number < MOST:
        raise Damaged(f"{number} cannot be a number of things")
    return int(number)


def _n_points(number):
    if number not in N_POINTS:
        raise Damaged(
            f"it has elements of type {number}, which is none of "
            f"{', '.join(map(str, sorted(N_POINTS)))}"
        )
    return N_POINTS[number]


# ---- versions --------------------------------------------------------------------------------------------------------


def _read_1(sections, stream, version):
    """Version 1; its nodes may be parametric, too, which only the numbers tell."""
    try:
        nodes = _nodes(stream("NOD"))
    except Damaged:
        nodes = _parametric_nodes(stream("NOD"))
    return _with_tags(nodes, stream("ELM"), version, {})


def _read_2(sections, stream, version):
    if "ParametricNodes" in sections:
        nodes = _parametric_nodes(stream("ParametricNodes"))
    else:
        nodes = _nodes(stream("Nodes"))
    return _with_tags(nodes, stream("Elements"), version, _names(sections))


def _nodes(stream):
    """(numbers (n,), points (3, n))."""
    number, *points = stream.columns("iddd", stream.count())
    stream.done()
    return number, np.stack(points)


def _parametric_nodes(stream):
    """The same of nodes that tell their entity, and where on it they are: each has a row of its own
    length.
    """
    rows = []
    for _ in range(stream.count()):
        number, x, y, z, dim, _ = (column[0] for column in stream.columns("idddii", 1))
        stream.columns("d" * {1: 1, 2: 2}.get(int(dim), 0), 1)
        rows.append((number, x, y, z))
    stream.done()
    number, *points = np.array(rows).reshape(-1, 4).T
    return number.astype(np.int64), np.stack(points)


def _with_tags(nodes, stream, version, names):
    """`Contents` of a file whose elements have tags of their own, the first of which is the
    physical group.
    """
    runs = list(stream.elements(stream.count(), version))
    stream.done()
    groups = {}
    first = 0
    for number, tags, rows in runs:
        dim = DIMENSION[base(NAMES[number])]
        n = rows.shape[1]
        physical = np.abs(tags[0]) if len(tags) else np.zeros(n, np.int64)
        for group in np.unique(physical[physical > 0]):
            members = first + np.flatnonzero(physical == group)
            groups.setdefault((dim, int(group)), []).append(members)
        first += n
    runs, groups = _once([(number, rows) for number, _, rows in runs], groups)
    return _contents(nodes, runs, groups, names)


def _once(runs, groups):
    """Runs and groups without copies of elements: these versions have an element once for each of
    its groups.
    """
    dim = max((DIMENSION[base(NAMES[number])] for number, _ in runs), default=0)
    if sum(d == dim for d, _ in groups) < 2:
        return runs, groups
    count = np.cumsum([0] + [rows.shape[1] for _, rows in runs])
    original = np.arange(count[-1])
    for number in {number for number, _ in runs if DIMENSION[base(NAMES[number])] == dim}:
        here = [i for i, (kind, _) in enumerate(runs) if kind == number]
        element = np.concatenate([np.arange(count[i], count[i + 1]) for i in here])
        rows = np.concatenate([runs[i][1] for i in here], axis=1)
        _, at, inverse = np.unique(rows, axis=1, return_index=True, return_inverse=True)
        original[element] = element[at[inverse.ravel()]]
    member = np.zeros(count[-1], np.int64)
    for (d, group), parts in groups.items():
        if d == dim:
            member[np.concatenate(parts)] = group
    copy = (original != np.arange(count[-1])) & (member != member[original])
    place = np.where(copy, original, np.arange(count[-1]))
    number = (np.cumsum(~copy) - 1)[place]
    kept = [(kind, rows[:, ~copy[a:b]]) for (kind, rows), a, b in zip(runs, count[:-1], count[1:])]
    return kept, {group: [number[part] for part in parts] for group, parts in groups.items()}


def _read_4(sections, stream, version):
    """Version 4.0 or 4.1, which some programs call 4."""
    try:
        return _read_entities_first(sections, stream, version)
    except (Damaged, ValueError, KeyError):
        if version > 4:
            raise
        return _read_entities_first(sections, stream, 4.1)


def _read_entities_first(sections, stream, version):
    entity_groups = {}
    if "Entities" in sections:
        _read_entities(stream("Entities"), version, entity_groups, partitioned=False)
    if "PartitionedEntities" in sections:
        _read_entities(stream("PartitionedEntities"), version, entity_groups, partitioned=True)
    nodes = _blocks_of_nodes(stream("Nodes"), version)
    runs = []
    groups = {}
    first = 0
    for dim, entity, number, rows in _blocks_of_elements(stream("Elements"), version):
        for group in entity_groups.get((dim, entity), ()):
            groups.setdefault((dim, group), []).append(first + np.arange(rows.shape[1]))
        runs.append((number, rows))
        first += rows.shape[1]
    return _contents(nodes, runs, groups, _names(sections))


def _read_entities(stream, version, groups, partitioned):
    """Put the groups of each entity, {(dimension, number): its groups}, into *groups*."""
    if partitioned:
        stream.columns("n", 1)
        stream.columns("ii", stream.columns("n", 1)[0][0])  # ghosts
    for dim, n in enumerate(np.concatenate(stream.columns("nnnn", 1))):
        for _ in range(_size(n)):
            entity = int(stream.columns("i", 1)[0][0])
            parent = None
            if partitioned:
                parent = tuple(int(column[0]) for column in stream.columns("ii", 1))
                stream.columns("i", stream.columns("n", 1)[0][0])  # partitions
            stream.columns("ddd" if dim == 0 and version > 4 else "dddddd", 1)
            n_groups = stream.columns("n", 1)[0][0]
            physical = np.unique(np.abs(stream.columns("i", n_groups)[0])).tolist()
            if dim > 0:
                stream.columns("i", stream.columns("n", 1)[0][0])  # its boundary
            inherited = groups.get(parent, []) if parent and parent[0] == dim else []
            groups[dim, entity] = physical or inherited
    stream.done()


def _blocks_of_nodes(stream, version):
    n_blocks, _ = (int(column[0]) for column in stream.columns("nn", 1))
    if version > 4:
        stream.columns("nn", 1)
    numbers = [np.empty(0, np.int64)]
    points = [np.empty((3, 0))]
    for _ in range(n_blocks):
        a, b, parametric, n = (int(column[0]) for column in stream.columns("iiin", 1))
        dim = a if version > 4 else b
        coordinates = "ddd" + "d" * (dim if parametric and 0 <= dim <= 3 else 0)
        number, *x = (
            stream.columns("i" + coordinates, n)
            if version == 4
            else stream.columns("n", n) + stream.columns(coordinates, n)
        )
        numbers.append(number)
        points.append(np.stack(x[:3]))
    stream.done()
    return np.concatenate(numbers), np.concatenate(points, axis=1)


def _blocks_of_elements(stream, version):
    """(dimension, entity, type, points (n_points, n)) of each block."""
    n_blocks, total = (int(column[0]) for column in stream.columns("nn", 1))
    if version > 4:
        stream.columns("nn", 1)
    for _ in range(n_blocks):
        a, b, number, n = (int(column[0]) for column in stream.columns("iiin", 1))
        rows = stream.table("n" if version > 4 else "i", 1 + _n_points(number), n)
        total -= n
        yield (a, b, number, rows[1:]) if version > 4 else (b, a, number, rows[1:])
    stream.done()
    if total:
        raise Damaged(f"$Elements has {total} elements fewer than it says")


def _names(sections):
    """{(dimension, number): name} of the physical groups; version 2.0 gives no dimension."""
    names = {}
    if "PhysicalNames" not in sections:
        return names
    first, *lines = sections["PhysicalNames"].decode("utf-8", "replace").strip().splitlines()
    if len(lines) != int(first):
        raise Damaged(f"$PhysicalNames has {len(lines)} names, not {first}")
    for line in lines:
        numbers, quote, name = line.partition('"')
        *dim, number = [int(word) for word in numbers.split()]
        if not quote or len(dim) > 1:
            raise Damaged(f"{line!r} in $PhysicalNames does not name a group")
        for d in dim or range(4):
            names[d, abs(number)] = name.rstrip().removesuffix('"')
    return names


def _contents(nodes, runs, groups, names):
    """`Contents` from nodes (numbers, points), runs [(type, points (n_points, n))] and groups.

    groups : {(dimension, number): elements}; names : {(dimension, number): name}
    """
    places = _lookup(nodes[0])
    blocks = [
        (NAMES[number], DIMENSION[base(NAMES[number])], places(rows).T) for number, rows in runs
    ]
    named = {}
    numbers = {}
    for (dim, number), elements in groups.items():
        key = (dim, Name(names[dim, number]) if (dim, number) in names else number)
        named.setdefault(key, []).extend(elements)
        numbers.setdefault(key, []).append(number)
    for dim, name in named:
        if isinstance(name, Name):
            name.numbers = tuple(numbers[dim, name])
    members = {group: np.unique(np.concatenate(parts)) for group, parts in named.items()}
    return Contents.of(nodes[1], blocks, members)


def _lookup(tags):
    """A function that gives the places of points by their numbers in the file."""
    if not len(tags):
        raise Damaged("it has no points")
    order = np.argsort(tags, kind="stable")
    numbers = tags[order]
    again = np.flatnonzero(numbers[1:] == numbers[:-1])
    if len(again):
        raise Damaged(f"point {numbers[again[0]]} comes twice")
    dense = numbers[-1] - numbers[0] == len(tags) - 1

    def places(wanted):
        at = wanted - numbers[0] if dense else np.searchsorted(numbers, wanted)
        at = np.clip(at, 0, len(numbers) - 1)
        missing = wanted[numbers[at] != wanted]
        if len(missing):
            raise Damaged(
                f"an element has point {missing[0]}, which is none of the {len(numbers)} points"
            )
        return order[at]

    return places
