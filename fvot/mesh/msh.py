"""Gmsh's mesh files, .msh 1, 2.0 to 2.2, 4.0 and 4.1, as text and binary: points, elements, and
physical groups.

Up to version 2, groups belong to elements; from version 4 on, they belong to the geometric entities
on which elements lie. An element may be in several groups. A negative number is that of a group in
which the entity is reversed. (Gmsh reference manual, "MSH file format" and its "Legacy formats".)

The package has a reader of its own because no other one suffices: meshio 5 reads neither version 1
nor partitions, nor parametric nodes, nor files with groups for a part of the elements; Gmsh's
library gives all elements on one entity the groups of each of them (version 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments.types import Array, IntArray
from ..errors import InputError, warn
from .file_contents import CORNERS_OF_KIND, DIMENSION_OF_KIND, Contents, straighten
from .groups import Name

# Gmsh's number of an element type, and the kind.
STRAIGHT_KINDS = {
    15: "vertex",
    1: "line",
    2: "triangle",
    3: "quad",
    4: "tetra",
    5: "hexahedron",
    6: "wedge",
    7: "pyramid",
}
# Kinds with further points on their sides: the digits are the number of points, corners first.
CURVED_KINDS = {
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
KINDS_BY_NUMBER = STRAIGHT_KINDS | CURVED_KINDS
STRAIGHT_POINTS = {number: CORNERS_OF_KIND[name] for number, name in STRAIGHT_KINDS.items()}
CURVED_POINTS = {
    number: int(name.removeprefix(straighten(name))) for number, name in CURVED_KINDS.items()
}
POINTS_OF_TYPE = STRAIGHT_POINTS | CURVED_POINTS

# The mark of UTF-8, which some editors put in front of a file.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# The integer 1 in a binary file, with its low byte first, and last.
BYTE_ORDERS = {b"\1\0\0\0": "<", b"\0\0\0\1": ">"}

# Every count in a file is below this: larger ones come from damage.
COUNT_LIMIT = 2**48


class Damaged(Exception):
    """A file is damaged; the text says how."""


def read(path: Path) -> Contents:
    """The `Contents` of a .msh file; `InputError` if it is damaged or of an unknown version."""
    version = None
    try:
        sections = _split_sections(path.read_bytes().removeprefix(BYTE_ORDER_MARK))
        version, open_section = _read_format(sections)
        readers = {1: _read_version_1, 2: _read_version_2, 4: _read_version_4}
        contents = readers[int(version)](sections, open_section, version)
    except (Damaged, ValueError, KeyError, OverflowError, IndexError) as error:
        what = "Gmsh's .msh" if version is None else f".msh {version:.1f}"
        reason = str(error) if isinstance(error, Damaged) else f"{type(error).__name__}: {error}"
        raise InputError(
            f"{path} cannot be read as {what}: {reason}; is the file complete? write it again, "
            f"with Gmsh: gmsh {path.name} -0 -format msh41 -o new.msh"
        ) from error

    if sections.get("Periodic", b"").split()[:1] not in ([], [b"0"]):
        warn(
            f"{path} says which of its sides are periodic ($Periodic). fvot does not join them: "
            "they are boundaries like others; Mesh.rectangle and Mesh.box have periodic="
        )
    return contents


# ---- sections ------------------------------------------------------------------------------------


def _split_sections(data):
    """{name: body} of the sections of a file; the first one where a name comes again, as $NodeData
    does.
    """
    sections = {}
    place = 0 if data.startswith(b"$") else data.find(b"\n$") + 1
    while place or not sections and data.startswith(b"$"):
        end_of_line = data.find(b"\n", place)
        name = data[place + 1 : end_of_line].strip()
        if end_of_line < 0 or not name.isalnum():
            raise Damaged(f"{data[place : place + 30]!r} does not begin a section")

        end = max(data.find(mark + name, end_of_line) for mark in (b"$End", b"$END"))
        if end < 0:
            raise Damaged(f"its section ${name.decode()} has no end")
        sections.setdefault(name.decode(), data[end_of_line + 1 : end])
        place = data.find(b"\n$", end) + 1

    if not sections:
        raise Damaged("it has no sections, such as $MeshFormat")
    return sections


def _read_format(sections):
    """(version, a function that opens a section by its name as `_Text` or `_Bytes`)."""

    def open_text(name: str) -> _Text:
        return _Text(name, _get_body(sections, name))

    if "MeshFormat" not in sections:
        if "NOD" in sections:
            return 1.0, open_text
        raise Damaged("it has no section $MeshFormat")

    line, _, rest = sections["MeshFormat"].partition(b"\n")
    version, is_binary, size = [float(word) for word in line.split()]
    if not (2 <= version < 3 or 4 <= version < 4.2):
        raise Damaged(
            f"version {version:g} is none of those that are known: 1, 2.0 to 2.2, 4.0 and 4.1"
        )
    if not is_binary:
        return version, open_text

    if rest[:4] not in BYTE_ORDERS or size not in (4, 8):
        raise Damaged("its $MeshFormat does not say how numbers are stored")
    order = BYTE_ORDERS[rest[:4]]
    kinds = {"i": order + "i4", "d": order + "f8", "n": f"{order}i{int(size)}"}

    def open_bytes(name: str) -> _Bytes:
        return _Bytes(name, _get_body(sections, name), kinds)

    return version, open_bytes


def _get_body(sections, name):
    if name not in sections:
        raise Damaged(f"it has no section ${name}")
    return sections[name]


class _Text:
    """Numbers of a text section, taken from its front: columns of "i" (integers), "n" (sizes), "d"
    (coordinates).
    """

    def __init__(self, name: str, body: bytes) -> None:
        self.name = name
        self.numbers = np.array(body.split(), float)
        self.place = 0

    def take_columns(self, kinds: str, n: int) -> list[Any]:
        """One array (n,) for each letter of kinds, from n rows of them."""
        rows = self.look_ahead(len(kinds), n)
        self.place += rows.size
        return [
            column.copy() if kind == "d" else _as_integers(column)
            for kind, column in zip(kinds, rows.T)
        ]

    def take_table(self, kind: str, width: int, n: int) -> IntArray:
        """Integers (width, n), from n rows of *width* numbers."""
        rows = self.look_ahead(width, n)
        self.place += rows.size
        return _as_integers(rows).T

    def look_ahead(self, width: int, n: int) -> Array:
        """The next n rows of *width* numbers, without taking them."""
        size = width * _as_count(n)
        if size > len(self.numbers) - self.place:
            raise Damaged(f"section ${self.name} ends too early, after {len(self.numbers)} numbers")
        return self.numbers[self.place : self.place + size].reshape(int(n), width)

    def take_count(self) -> int:
        """The number of rows, with which sections up to version 2 begin."""
        return _as_count(self.take_columns("n", 1)[0][0])

    def take_elements(self, n: int, version: float) -> Iterator[tuple[int, IntArray, IntArray]]:
        """(type, tags (n_tags, m), points (n_points, m)) of runs of similar elements, n in all.

        Up to version 2.
        """
        while n > 0:
            number, n_tags = _as_integers(self.look_ahead(3, 1)[0, 1:])
            # A row has number, type, two tags, how many points (version 1), or number, type, how
            # many tags, the tags.
            n_front = 5 if version < 2 else 3 + _as_count(n_tags)
            tags = slice(2, 4) if version < 2 else slice(3, n_front)
            n_alike = 2 if version < 2 else 3
            width = n_front + _count_points(number)
            run = self._find_run(width, slice(1, n_alike), n)

            rows = self.take_table("i", width, run)
            n -= run
            yield number, rows[tags], rows[n_front:]

    def _find_run(self, width, alike, n):
        """How many of the next n rows begin like the first one, hence are as long: looks twice as
        far each time.
        """
        run = 1
        reach = 1
        while run == reach < n:
            reach = min(2 * reach, n)
            n_rows_left = (len(self.numbers) - self.place) // width
            rows = self.look_ahead(width, min(reach, n_rows_left))
            differs = (rows[:, alike] != rows[0, alike]).any(axis=1)
            other = np.flatnonzero(differs)
            run = int(other[0]) if len(other) else len(rows)
        return run

    def check_end(self) -> None:
        """`Damaged` if numbers are left over."""
        if self.place != len(self.numbers):
            raise Damaged(
                f"section ${self.name} has {len(self.numbers) - self.place} numbers too many"
            )


class _Bytes:
    """The same for a binary section."""

    def __init__(self, name: str, body: bytes, kinds: dict[str, str]) -> None:
        self.name = name
        self.body = body
        self.kinds = kinds
        self.place = 0

    def take_columns(self, kinds: str, n: int) -> list[Any]:
        """One array (n,) for each letter of kinds, from n rows of them."""
        fields = [(str(i), self.kinds[kind]) for i, kind in enumerate(kinds)]
        rows = self._take(np.dtype(fields), _as_count(n))
        columns = []
        for i, kind in enumerate(kinds):
            dtype = float if kind == "d" else np.int64
            columns.append(rows[str(i)].astype(dtype))
        return columns

    def take_table(self, kind: str, width: int, n: int) -> IntArray:
        """Integers (width, n), from n rows of *width* numbers."""
        numbers = self._take(np.dtype(self.kinds[kind]), width * _as_count(n))
        return numbers.reshape(int(n), width).T.astype(np.int64)

    def _take(self, kind, n):
        size = kind.itemsize * n
        if size > len(self.body) - self.place:
            raise Damaged(f"section ${self.name} ends too early, after {len(self.body)} bytes")
        numbers = np.frombuffer(self.body, kind, n, self.place)
        self.place += size
        return numbers

    def take_count(self) -> int:
        """The number of rows: a line of text before the bytes."""
        end = self.body.index(b"\n", self.place) + 1
        line = self.body[self.place : end]
        self.place += len(line)
        return _as_count(float(line))

    def take_elements(self, n: int, version: float) -> Iterator[tuple[int, IntArray, IntArray]]:
        """The same as of `_Text`, for version 2."""
        while n > 0:
            number, run, n_tags = (int(column[0]) for column in self.take_columns("iii", 1))
            if not 0 < run <= n:
                raise Damaged(f"$Elements has a run of {run} elements where {n} are left")
            width = 1 + _as_count(n_tags) + _count_points(number)
            rows = self.take_table("i", width, run)
            n -= run
            yield number, rows[1 : 1 + n_tags], rows[1 + n_tags :]

    def check_end(self) -> None:
        """`Damaged` if bytes are left over."""
        if self.body[self.place :].strip():
            raise Damaged(f"section ${self.name} has {len(self.body) - self.place} bytes too many")


def _as_integers(numbers):
    is_in_range = (np.abs(numbers) < COUNT_LIMIT).all()
    if not is_in_range or (numbers != np.floor(numbers)).any():
        raise Damaged("a number that should be whole is not")
    return numbers.astype(np.int64)


def _as_count(number):
    if not 0 <= number < COUNT_LIMIT:
        raise Damaged(f"{number} cannot be a number of things")
    return int(number)


def _count_points(number):
    if number not in POINTS_OF_TYPE:
        raise Damaged(
            f"it has elements of type {number}, which is none of "
            f"{', '.join(map(str, sorted(POINTS_OF_TYPE)))}"
        )
    return POINTS_OF_TYPE[number]


# ---- versions ------------------------------------------------------------------------------------


def _read_version_1(sections, open_section, version):
    """Version 1. Its nodes may be parametric: only the numbers tell."""
    try:
        nodes = _read_nodes(open_section("NOD"))
    except Damaged:
        nodes = _read_parametric_nodes(open_section("NOD"))
    return _read_tagged_elements(nodes, open_section("ELM"), version, {})


def _read_version_2(sections, open_section, version):
    if "ParametricNodes" in sections:
        nodes = _read_parametric_nodes(open_section("ParametricNodes"))
    else:
        nodes = _read_nodes(open_section("Nodes"))
    return _read_tagged_elements(nodes, open_section("Elements"), version, _read_names(sections))


def _read_nodes(stream):
    """(numbers (n,), points (3, n))."""
    number, *points = stream.take_columns("iddd", stream.take_count())
    stream.check_end()
    return number, np.stack(points)


def _read_parametric_nodes(stream):
    """(numbers (n,), points (3, n)) of nodes that tell their entity and where on it they are.

    Each has a row of its own length.
    """
    n_parameters = {1: 1, 2: 2}  # by the dimension of the entity
    rows = []
    for _ in range(stream.take_count()):
        number, x, y, z, dim, _ = (column[0] for column in stream.take_columns("idddii", 1))
        stream.take_columns("d" * n_parameters.get(int(dim), 0), 1)
        rows.append((number, x, y, z))
    stream.check_end()

    number, *points = np.array(rows).reshape(-1, 4).T
    return number.astype(np.int64), np.stack(points)


def _read_tagged_elements(nodes, stream, version, names):
    """`Contents` of a file whose elements have tags of their own, the first of which is the
    physical group.
    """
    tagged_runs = list(stream.take_elements(stream.take_count(), version))
    stream.check_end()

    groups = {}
    first = 0
    for number, tags, rows in tagged_runs:
        dim = _get_dimension(number)
        n = rows.shape[1]
        physical = np.abs(tags[0]) if len(tags) else np.zeros(n, np.int64)
        for group in np.unique(physical[physical > 0]):
            members = first + np.flatnonzero(physical == group)
            groups.setdefault((dim, int(group)), []).append(members)
        first += n

    runs = [(number, rows) for number, _, rows in tagged_runs]
    runs, groups = _remove_copies(runs, groups)
    return _build_contents(nodes, runs, groups, names)


def _get_dimension(number):
    """The dimension of an element type."""
    return DIMENSION_OF_KIND[straighten(KINDS_BY_NUMBER[number])]


def _remove_copies(runs, groups):
    """Runs and groups without copies of elements: up to version 2 a file has an element once for
    each of its groups.
    """
    dim = max((_get_dimension(number) for number, _ in runs), default=0)
    if sum(d == dim for d, _ in groups) < 2:
        return runs, groups

    ends = np.cumsum([0] + [rows.shape[1] for _, rows in runs])
    original = _find_originals(runs, ends, dim)
    group_of = np.zeros(ends[-1], np.int64)
    for (d, group), parts in groups.items():
        if d == dim:
            group_of[np.concatenate(parts)] = group

    # An element that comes twice in one group stays there twice.
    itself = np.arange(ends[-1])
    is_in_other_group = group_of != group_of[original]
    is_copy = (original != itself) & is_in_other_group
    place = np.where(is_copy, original, itself)
    number_of_kept = np.cumsum(~is_copy) - 1
    number = number_of_kept[place]

    kept = []
    for (kind, rows), first, last in zip(runs, ends[:-1], ends[1:]):
        is_kept = ~is_copy[first:last]
        kept.append((kind, rows[:, is_kept]))
    kept_groups = {}
    for group, parts in groups.items():
        kept_groups[group] = [number[part] for part in parts]
    return kept, kept_groups


def _find_originals(runs, ends, dim):
    """(n,) for each element the first one of its type with the same points; itself unless it is of
    dimension *dim*.
    """
    original = np.arange(ends[-1])
    numbers = {number for number, _ in runs if _get_dimension(number) == dim}
    for number in numbers:
        same_type = [i for i, (kind, _) in enumerate(runs) if kind == number]
        element = np.concatenate([np.arange(ends[i], ends[i + 1]) for i in same_type])
        rows = np.concatenate([runs[i][1] for i in same_type], axis=1)
        _, first, inverse = np.unique(rows, axis=1, return_index=True, return_inverse=True)
        original[element] = element[first[inverse.ravel()]]
    return original


def _read_version_4(sections, open_section, version):
    """Version 4.0 or 4.1, which some programs call 4."""
    try:
        return _read_entities_first(sections, open_section, version)
    except (Damaged, ValueError, KeyError):
        if version > 4:
            raise
        return _read_entities_first(sections, open_section, 4.1)


def _read_entities_first(sections, open_section, version):
    entity_groups = {}
    if "Entities" in sections:
        _read_entities(open_section("Entities"), version, entity_groups, partitioned=False)
    if "PartitionedEntities" in sections:
        stream = open_section("PartitionedEntities")
        _read_entities(stream, version, entity_groups, partitioned=True)
    nodes = _read_node_blocks(open_section("Nodes"), version)

    runs = []
    groups = {}
    first = 0
    for dim, entity, number, rows in _read_element_blocks(open_section("Elements"), version):
        for group in entity_groups.get((dim, entity), ()):
            members = first + np.arange(rows.shape[1])
            groups.setdefault((dim, group), []).append(members)
        runs.append((number, rows))
        first += rows.shape[1]
    return _build_contents(nodes, runs, groups, _read_names(sections))


def _read_entities(stream, version, groups, partitioned):
    """Put the groups of each entity, {(dimension, number): its groups}, into *groups*."""
    if partitioned:
        stream.take_columns("n", 1)  # how many partitions
        _skip_list(stream, "ii")  # ghosts
    for dim, n in enumerate(np.concatenate(stream.take_columns("nnnn", 1))):
        for _ in range(_as_count(n)):
            entity = int(stream.take_columns("i", 1)[0][0])
            parent = None
            if partitioned:
                parent = tuple(int(column[0]) for column in stream.take_columns("ii", 1))
                _skip_list(stream, "i")  # partitions
            box = "ddd" if dim == 0 and version > 4 else "dddddd"
            stream.take_columns(box, 1)

            n_groups = stream.take_columns("n", 1)[0][0]
            (tags,) = stream.take_columns("i", n_groups)
            physical = np.unique(np.abs(tags)).tolist()
            if dim > 0:
                _skip_list(stream, "i")  # its boundary
            inherited = groups.get(parent, []) if parent and parent[0] == dim else []
            groups[dim, entity] = physical or inherited
    stream.check_end()


def _skip_list(stream, kinds):
    """Skip rows that come after their number."""
    n = stream.take_columns("n", 1)[0][0]
    stream.take_columns(kinds, n)


def _read_node_blocks(stream, version):
    """(numbers (n,), points (3, n))."""
    n_blocks, _ = (int(column[0]) for column in stream.take_columns("nn", 1))
    if version > 4:
        stream.take_columns("nn", 1)  # smallest and largest number

    numbers = [np.empty(0, np.int64)]
    points = [np.empty((3, 0))]
    for _ in range(n_blocks):
        block = (int(column[0]) for column in stream.take_columns("iiin", 1))
        first, second, is_parametric, n = block
        dim = first if version > 4 else second
        n_parameters = dim if is_parametric and 0 <= dim <= 3 else 0
        coordinates = "ddd" + "d" * n_parameters
        if version == 4:
            number, *x = stream.take_columns("i" + coordinates, n)
        else:
            (number,) = stream.take_columns("n", n)
            x = stream.take_columns(coordinates, n)
        numbers.append(number)
        points.append(np.stack(x[:3]))
    stream.check_end()
    return np.concatenate(numbers), np.concatenate(points, axis=1)


def _read_element_blocks(stream, version):
    """(dimension, entity, type, points (n_points, n)) of each block."""
    n_blocks, n_left = (int(column[0]) for column in stream.take_columns("nn", 1))
    if version > 4:
        stream.take_columns("nn", 1)  # smallest and largest number

    for _ in range(n_blocks):
        block = (int(column[0]) for column in stream.take_columns("iiin", 1))
        first, second, number, n = block
        dim, entity = (first, second) if version > 4 else (second, first)
        rows = stream.take_table("n" if version > 4 else "i", 1 + _count_points(number), n)
        n_left -= n
        yield dim, entity, number, rows[1:]
    stream.check_end()
    if n_left:
        raise Damaged(f"$Elements has {n_left} elements fewer than it says")


def _read_names(sections):
    """{(dimension, number): name} of the physical groups; version 2.0 gives no dimension."""
    names = {}
    if "PhysicalNames" not in sections:
        return names

    count, *lines = sections["PhysicalNames"].decode("utf-8", "replace").strip().splitlines()
    if len(lines) != int(count):
        raise Damaged(f"$PhysicalNames has {len(lines)} names, not {count}")
    for line in lines:
        numbers, quote, name = line.partition('"')
        *dim, number = [int(word) for word in numbers.split()]
        if not quote or len(dim) > 1:
            raise Damaged(f"{line!r} in $PhysicalNames does not name a group")
        for d in dim or range(4):
            names[d, abs(number)] = name.rstrip().removesuffix('"')
    return names


def _build_contents(nodes, runs, groups, names):
    """`Contents` from nodes (numbers, points), runs [(type, points (n_points, n))] and groups.

    groups : {(dimension, number): elements}; names : {(dimension, number): name}
    """
    find_places = _make_lookup(nodes[0])
    blocks = [
        (KINDS_BY_NUMBER[number], _get_dimension(number), find_places(rows).T)
        for number, rows in runs
    ]

    parts_of_group = {}
    numbers = {}
    for (dim, number), elements in groups.items():
        name = Name(names[dim, number]) if (dim, number) in names else number
        parts_of_group.setdefault((dim, name), []).extend(elements)
        numbers.setdefault((dim, name), []).append(number)
    for dim, name in parts_of_group:
        if isinstance(name, Name):
            name.numbers = tuple(numbers[dim, name])
    members = {}
    for group, parts in parts_of_group.items():
        members[group] = np.unique(np.concatenate(parts))
    return Contents.from_blocks(nodes[1], blocks, members)


def _make_lookup(tags):
    """A function that finds the places of points by their numbers in the file."""
    if not len(tags):
        raise Damaged("it has no points")
    order = np.argsort(tags, kind="stable")
    numbers = tags[order]
    repeated = np.flatnonzero(numbers[1:] == numbers[:-1])
    if len(repeated):
        raise Damaged(f"point {numbers[repeated[0]]} comes twice")
    is_dense = numbers[-1] - numbers[0] == len(tags) - 1

    def find_places(wanted: IntArray) -> IntArray:
        place = wanted - numbers[0] if is_dense else np.searchsorted(numbers, wanted)
        place = np.clip(place, 0, len(numbers) - 1)
        missing = wanted[numbers[place] != wanted]
        if len(missing):
            raise Damaged(
                f"an element has point {missing[0]}, which is none of the {len(numbers)} points"
            )
        return order[place]

    return find_places
