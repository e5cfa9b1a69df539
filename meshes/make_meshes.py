"""Make the meshes of this folder anew: python meshes/make_meshes.py [--size 1.0] [--out meshes]

The two-point flux puts the point of a cell at its circumcentre, and wants these points in the order
of their cells. They are when every cell contains its own: no triangle is obtuse, and the like for
tetrahedra. Mesh generators come close to it; here the nodes then move until it is so, with a margin
(`relax`). Quadrilaterals are left as they are recombined.

The names on the boundary are physical groups; the cells themselves are the group "domain".
README.md has the table.
"""

import argparse
from math import factorial
from pathlib import Path

import gmsh
import numpy as np
from scipy.optimize import minimize
from scipy.spatial import Delaunay

geo = gmsh.model.geo
TRIANGLE, TETRAHEDRON = 2, 4  # gmsh's numbers of the element types


# ---- curves --------------------------------------------------------------------------------------


def polyline(points):
    return [geo.addLine(a, b) for a, b in zip(points, points[1:])]


def smooth(points):
    """A cubic B-spline from the first point to the last, drawn towards those between."""
    return [geo.addBSpline(points)]


def around(center):
    """Arcs from point to point about a center, each below half a turn."""

    def join(points):
        middle = geo.addPoint(*center, 0)
        return [geo.addCircleArc(a, middle, b) for a, b in zip(points, points[1:])]

    return join


def circle(center, radius, start=0.0, stop=1.0, n=5):
    """n points on a circle (an ellipse, if `radius` is a pair) from one angle to another, in
    turns.
    """
    angle = 2 * np.pi * np.linspace(start, stop, n)
    return np.asarray(center) + np.multiply(
        radius, np.stack([np.cos(angle), np.sin(angle)], axis=1)
    )


def outline(*parts):
    """A closed curve of parts (name, kind of curve, points); each part begins where the one before
    it ended.

    A name is a boundary's, and may go on after a blank ("mole head") to be told apart in
    refinement. Returns gmsh's loop, and the curves as pairs (name, tag).
    """
    start = here = geo.addPoint(*parts[-1][2][-1], 0)
    curves = []
    for i, (name, join, points) in enumerate(parts):
        last = i == len(parts) - 1
        tags = (
            [here]
            + [geo.addPoint(x, y, 0) for x, y in points[: len(points) - last]]
            + [start] * last
        )
        curves += [(name, tag) for tag in join(tags)]
        here = tags[-1]
    return geo.addCurveLoop([tag for _, tag in curves]), curves


# ---- domains -------------------------------------------------------------------------------------
# Each returns its outlines, the mesh size (a number, or a function of x and y), and perhaps what to
# refine: (names, the size there, how far it reaches).


def towards(corners, least, growth, most):
    """The mesh size least + growth d^(3/4), at most `most`, at distance d from the nearest of the
    corners.

    Mass that is carried round a corner is a beam as wide as d, with an error of (size / width)^2 on
    every piece of its way: a size proportional to d^(3/4) makes the sum least for a given number of
    cells.
    """

    def size(x, y):
        d = np.hypot(*(np.array([[x], [y]]) - np.transpose(corners))).min()
        return min(least + growth * d**0.75, most)

    return size


def harbour():
    """A basin, 4 x 2.5: from a river in the west, round islands and a mole, to the entrance in the
    south-east.
    """
    # the mole goes north, bends, ends in a round head
    elbow = np.array([2.66, 0.66])
    head = np.array([2.27, 1.24])
    # half its thickness; the head's radius
    half = 0.045
    radius = 0.085
    root = [(elbow[0] - half, 0.12), (elbow[0] + half, 0.12)]
    back = np.arctan2(*(elbow - head)[::-1]) / (2 * np.pi)
    neck = np.arcsin(half / radius) / (2 * np.pi)
    round_head = circle(head, radius, back - neck, back + neck - 1, n=4)
    coast = outline(
        (
            "shore",
            smooth,
            [
                (0.14, 1.37),
                (0.32, 1.36),
                (0.48, 1.16),
                (0.40, 0.90),
                (0.24, 0.62),
                (0.40, 0.30),
                (0.84, 0.10),
                (1.30, 0.30),
                (1.80, 0.10),
                (2.30, 0.04),
                root[0],
            ],
        ),
        ("mole", polyline, [elbow + (-half, -0.01), round_head[0]]),
        ("mole head", around(head), round_head[1:]),
        ("mole", polyline, [elbow + (half, 0.02), root[1]]),
        (
            "shore",
            smooth,
            [(3.00, 0.26), (3.30, 0.06), (3.65, 0.16), (3.80, 0.46), (3.90, 0.50), (4.00, 0.50)],
        ),
        ("outlet", polyline, [(4.00, 1.20)]),
        (
            "shore",
            smooth,
            [
                (3.88, 1.20),
                (3.68, 1.24),
                (3.60, 1.46),
                (3.78, 1.70),
                (3.66, 2.06),
                (3.35, 2.26),
                (3.00, 2.22),
                (2.70, 2.38),
                (2.40, 2.40),
            ],
        ),
        (
            "shore",
            polyline,
            [(2.02, 2.42), (1.96, 2.04), (1.68, 2.08), (1.74, 2.46), (1.30, 2.50)],
        ),  # a quay
        (
            "shore",
            smooth,
            [(0.95, 2.52), (0.56, 2.36), (0.52, 2.02), (0.32, 1.76), (0.14, 1.73), (0.00, 1.73)],
        ),
        ("inlet", polyline, [(0.00, 1.37)]),
    )
    islands = [
        (
            smooth,
            [
                (1.06, 1.60),
                (1.02, 1.80),
                (0.88, 1.74),
                (0.80, 1.50),
                (0.82, 1.30),
                (0.94, 1.28),
                (1.04, 1.42),
            ],
        ),
        (
            smooth,
            [
                (1.50, 1.34),
                (1.36, 1.14),
                (1.14, 0.98),
                (1.06, 0.74),
                (1.24, 0.60),
                (1.46, 0.66),
                (1.42, 0.88),
                (1.62, 0.94),
                (1.72, 1.16),
                (1.64, 1.32),
            ],
        ),
        (
            polyline,
            [(3.02, 1.88), (2.80, 1.82), (2.72, 1.60), (2.88, 1.44), (3.12, 1.52), (3.16, 1.72)],
        ),
        (smooth, circle((3.28, 0.84), (0.15, 0.11), n=13)[1:]),
    ]
    outlines = [coast] + [outline(("islands", kind, points)) for kind, points in islands]
    return outlines, 0.062, (("mole head", "islands"), 0.028, 0.45)


def l_shape():
    """The square (-1, 1)^2 without its lower right quarter; the two sides of the inner corner are
    the notch.
    """
    corners = dict(
        bottom=[(0, -1)], notch=[(0, 0), (1, 0)], right=[(1, 1)], top=[(-1, 1)], left=[(-1, -1)]
    )
    return [outline(*((name, polyline, points) for name, points in corners.items()))], 0.075, None


def l_graded():
    """The same as l_shape, ever finer towards the inner corner."""
    return l_shape()[0], towards([(0, 0)], 0.004, 0.15, 0.11), None


def disc():
    """The unit disc."""
    return [outline(("circle", around((0, 0)), circle((0, 0), 1)[1:]))], 0.065, None


def disc_quads():
    """The unit disc, for quadrilaterals."""
    return disc()


def annulus():
    """0.4 < r < 1."""
    rings = dict(outer=1.0, inner=0.4)
    outlines = [
        outline((name, around((0, 0)), circle((0, 0), radius)[1:]))
        for name, radius in rings.items()
    ]
    return outlines, 0.06, None


def two_rooms():
    """Two unit squares, and in the wall of 0.1 between them a door, 0.2 wide."""
    walls = outline(
        ("walls", polyline, [(1, 0), (1, 0.55)]),
        ("walls door", polyline, [(1.1, 0.55)]),
        ("walls", polyline, [(1.1, 0), (2.1, 0), (2.1, 1), (1.1, 1), (1.1, 0.75)]),
        ("walls door", polyline, [(1, 0.75)]),
        ("walls", polyline, [(1, 1), (0, 1), (0, 0)]),
    )
    return [walls], 0.055, (("walls door",), 0.03, 0.4)


def rooms_graded():
    """The same as two_rooms, ever finer towards the corners of the door."""
    corners = [(1, 0.55), (1.1, 0.55), (1.1, 0.75), (1, 0.75)]
    return two_rooms()[0], towards(corners, 0.0045, 0.17, 0.09), None


def slit():
    """The unit square with a slit, 0.04 wide and 0.6 long, from the bottom; ever finer towards its
    corners.
    """
    left, right = (0.48, 0.6), (0.52, 0.6)
    walls = outline(
        ("slit", polyline, [left, right, (0.52, 0)]),
        ("walls", polyline, [(1, 0), (1, 1), (0, 1), (0, 0), (0.48, 0)]),
    )
    return [walls], towards([left, right], 0.0025, 0.135, 0.06), None


# ---- meshes --------------------------------------------------------------------------------------


def triangulate(outlines, size, refine):
    """Mesh what lies within the first outline and outside the others, with acute triangles."""
    cut(outlines, size, refine)
    tags, points = nodes()
    inner, _, _ = gmsh.model.mesh.getNodes(2)
    inner = np.searchsorted(tags, inner)
    triangles = np.searchsorted(tags, gmsh.model.mesh.getElementsByType(TRIANGLE)[1]).reshape(-1, 3)
    triangles = flip(points[:, :2], triangles)
    points[:, :2] = relax(points[:, :2], triangles, inner, margin=0.16)
    for i in inner:
        gmsh.model.mesh.setNode(tags[i], points[i], [])
    replace(2, TRIANGLE, tags[triangles])


def recombine(outlines, size, refine):
    """Mesh it with quadrilaterals, which are not orthogonal: gmsh's triangles, joined."""
    cut(outlines, size, refine)
    gmsh.model.mesh.recombine()


def cut(outlines, size, refine):
    """Mesh it with gmsh's own triangles."""
    curves = [curve for _, curves in outlines for curve in curves]
    geo.addPlaneSurface([loop for loop, _ in outlines])
    geo.synchronize()
    for boundary in dict.fromkeys(name.split()[0] for name, _ in curves):
        gmsh.model.addPhysicalGroup(
            1, [tag for name, tag in curves if name.split()[0] == boundary], name=boundary
        )
    gmsh.model.addPhysicalGroup(2, [1], name="domain")

    if callable(size):
        gmsh.model.mesh.setSizeCallback(lambda dim, tag, x, y, z, before: size(x, y))
        gmsh.model.mesh.generate(2)
        gmsh.model.mesh.removeSizeCallback()
    else:
        names, least, reach = refine or ((), size, 1.0)
        field = gmsh.model.mesh.field
        near = field.add("Distance")
        grading = field.add("Threshold")
        field.setNumbers(near, "CurvesList", [tag for name, tag in curves if name in names])
        field.setNumber(near, "Sampling", 40)
        for key, value in dict(
            InField=near, SizeMin=least, SizeMax=size, DistMin=least, DistMax=reach
        ).items():
            field.setNumber(grading, key, value)
        field.setAsBackgroundMesh(grading)
        gmsh.model.mesh.generate(2)


def ball(spacing):
    """The unit ball: gmsh's points on the sphere, a body-centred cubic lattice inside, Delaunay
    tetrahedra.
    """
    gmsh.model.occ.addSphere(0, 0, 0, 1)
    gmsh.model.occ.synchronize()
    gmsh.model.addPhysicalGroup(2, [1], name="sphere")
    gmsh.model.addPhysicalGroup(3, [1], name="domain")
    gmsh.option.setNumber(
        "Mesh.MeshSizeMax", 0.9 * spacing
    )  # the lattice's edges are 0.87 and 1 spacings
    gmsh.model.mesh.generate(2)
    tags, points = nodes()
    sphere = np.arange(len(tags))

    grid = np.arange(-1, 1, spacing)
    cubic = np.stack(np.meshgrid(grid, grid, grid), axis=-1).reshape(-1, 3)
    lattice = (
        np.concatenate([cubic, cubic + spacing / 2]) + np.array([0.13, 0.07, 0.19]) * spacing
    )  # no symmetry
    lattice = lattice[np.linalg.norm(lattice, axis=1) < 1 - 0.6 * spacing]
    points = np.concatenate([points, lattice])
    inner = np.arange(len(sphere), len(points))
    every = np.arange(len(points))

    for _ in range(10):
        points[inner] = average(points, tetrahedra(points))[inner]
    for _ in range(20):  # the sphere's points may slide on it
        points = relax(points, tetrahedra(points), every, margin=0.06, sphere=sphere)
        cells = tetrahedra(points)
        if (heights(points[cells])[0] > 0.05 * size(points[cells])[:, None]).all():
            break

    tags = np.concatenate([tags, tags.max() + np.arange(1, len(inner) + 1, dtype=tags.dtype)])
    for i in sphere:
        gmsh.model.mesh.setNode(tags[i], points[i], [])
    gmsh.model.mesh.addNodes(3, 1, tags[inner], points[inner].ravel())
    replace(2, TRIANGLE, tags[Delaunay(points).convex_hull])
    replace(3, TETRAHEDRON, tags[cells])


def nodes():
    """Of all nodes: tags in increasing order, points (n, 3)."""
    tags, points, _ = gmsh.model.mesh.getNodes()
    order = np.argsort(tags)
    return tags[order], points.reshape(-1, 3)[order]


def replace(dim, kind, cells):
    """Put these cells (tags of nodes) in place of gmsh's own."""
    gmsh.model.mesh.removeElements(dim, 1)
    gmsh.model.mesh.addElementsByType(1, kind, [], cells.ravel())


def tetrahedra(points):
    """Delaunay tetrahedra, all with the same orientation, without the flat ones that may lie in the
    hull.
    """
    cells = Delaunay(points).simplices
    volume = np.linalg.det(points[cells[:, 1:]] - points[cells[:, :1]])
    cells[volume < 0] = cells[volume < 0][:, [1, 0, 2, 3]]
    return cells[np.abs(volume) > 1e-6 * np.abs(volume).mean()]


# ---- better cells --------------------------------------------------------------------------------


def flip(points, triangles, limit=80.0):
    """Give every node so many triangles that, shared evenly, its angle is below `limit` degrees
    each: inside, five.

    A node with too few gets an edge across one of its triangles, where the two nodes that lose one
    can best spare it.
    """
    node = np.stack(
        [triangles, np.roll(triangles, -1, axis=1), np.roll(triangles, -2, axis=1)]
    ).reshape(-1, 3)
    u = points[node[:, 1]] - points[node[:, 0]]
    v = points[node[:, 2]] - points[node[:, 0]]
    angle = np.degrees(
        np.arccos((u * v).sum(axis=1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1))
    )
    spare = np.bincount(node[:, 0]) - np.ceil(np.bincount(node[:, 0], angle) / limit - 1e-6).astype(
        int
    )
    apex = {
        (a, b): c for c, a, b in node.tolist()
    }  # the triangle to the left of the edge from a to b
    for _ in range(len(points)):
        c = spare.argmin()
        if spare[c] >= 0:
            break
        opposite = [edge for edge in apex if apex[edge] == c and edge[::-1] in apex]
        a, b = max(opposite, key=lambda edge: min(spare[edge[0]], spare[edge[1]]))
        d = apex[b, a]
        del apex[a, b], apex[b, a]
        apex |= {(c, a): d, (a, d): c, (d, c): a, (c, d): b, (d, b): c, (b, c): d}
        spare[[a, b, c, d]] += [-1, -1, 1, 1]
    return np.array([(a, b, c) for (a, b), c in apex.items() if a < min(b, c)])


def heights(p):
    """Of simplices p (n, d + 1, d), over each face: height of the circumcentre (negative: outside),
    of the vertex.
    """
    inverse = np.linalg.inv(p[:, 1:] - p[:, :1])
    slope = np.concatenate(
        [-inverse.sum(axis=2, keepdims=True), inverse], axis=2
    )  # of the barycentric coordinates
    square = ((p[:, 1:] - p[:, :1]) ** 2).sum(axis=2)
    barycentric = np.einsum("kji,kjl,kl->ki", slope, inverse, square) / 2
    barycentric[:, 0] += 1
    steep = np.sqrt((slope**2).sum(axis=1))
    return barycentric / steep, 1 / steep


def size(p):
    """Of simplices: the d-th root of the volume."""
    d = p.shape[2]
    return (np.abs(np.linalg.det(p[:, 1:] - p[:, :1])) / factorial(d)) ** (1 / d)


def average(points, cells):
    """Every node goes to the mean of the circumcentres around it, by volume (of centroids where
    those are out).

    With Delaunay cells between the steps, this makes cells of even size and shape.
    """
    p = points[cells]
    edges = p[:, 1:] - p[:, :1]
    center = p[:, 0] + np.linalg.solve(edges, (edges**2).sum(axis=2)[..., None])[..., 0] / 2
    far = np.linalg.norm(center, axis=1) > 0.98
    center[far] = p[far].mean(axis=1)
    weight = np.zeros((len(points), 1))
    moved = np.zeros_like(points)
    volume = size(p)[:, None] ** 3
    for node in cells.T:
        np.add.at(weight, node, volume)
        np.add.at(moved, node, volume * center)
    return moved / weight


def relax(points, cells, free, margin, altitude=0.9, sphere=()):
    """Move the nodes `free` until every circumcentre is inside its cell by `margin`, and no vertex
    below `altitude`.

    Both in sizes of the cell; what lacks is squared and summed, and the sum made least. The nodes
    `sphere` stay on it.
    """
    d = points.shape[1]
    h = size(points[cells])[:, None]
    unit = 0.03 * h.mean()  # the first step of the search, all nodes together
    sphere = np.asarray(sphere, int)

    def place(step):
        x = points.copy()
        x[free] += unit * step.reshape(-1, d)
        radius = np.linalg.norm(x[sphere], axis=1, keepdims=True)
        x[sphere] /= radius
        return x, radius

    def lacks(p, h):
        center, vertex = heights(p)
        return np.concatenate([margin - center / h, margin * (1 - vertex / h / altitude)], axis=1)

    def energy(step):
        x, radius = place(step)
        lack = np.maximum(lacks(x[cells], h), 0)
        bad = lack.any(axis=1)
        p = x[cells[bad]].astype(complex)
        slope = np.zeros_like(x)
        for vertex in range(d + 1):
            for axis in range(d):
                p[:, vertex, axis] += 1e-30j  # derivative by a complex step: exact
                change = (2 * lack[bad] * lacks(p, h[bad]).imag).sum(axis=1) / 1e-30
                np.add.at(slope[:, axis], cells[bad, vertex], change)
                p[:, vertex, axis] -= 1e-30j
        slope[sphere] -= x[sphere] * (slope[sphere] * x[sphere]).sum(axis=1, keepdims=True)
        slope[sphere] /= radius
        return (lack**2).sum(), unit * slope[free].ravel()

    best = minimize(
        energy, np.zeros(len(free) * d), jac=True, method="L-BFGS-B", options=dict(maxiter=100)
    )
    return place(best.x)[0]


# ---- main ----------------------------------------------------------------------------------------


def main(size, out):
    out.mkdir(parents=True, exist_ok=True)
    gmsh.initialize()
    gmsh.option.setNumber("General.Verbosity", 2)
    gmsh.option.setNumber("Mesh.Algorithm", 6)  # frontal Delaunay
    gmsh.option.setNumber("Mesh.MeshSizeFactor", size)
    gmsh.option.setNumber("Mesh.MeshSizeExtendFromBoundary", 0)  # sizes come from the fields alone
    gmsh.option.setNumber("Mesh.MeshSizeFromPoints", 0)

    def write(name, version, binary):
        gmsh.option.setNumber("Mesh.MshFileVersion", version)
        gmsh.option.setNumber("Mesh.Binary", binary)
        gmsh.write(str(out / f"{name}.msh"))

    def plane(domain, version, binary, mesh=triangulate):
        gmsh.model.add(domain.__name__)
        mesh(*domain())
        write(domain.__name__, version, binary)

    plane(harbour, 4.1, binary=False)  # together, every format that a reader should know
    plane(l_shape, 2.2, binary=False)
    plane(disc, 4.1, binary=True)
    plane(disc_quads, 4.1, binary=False, mesh=recombine)
    plane(annulus, 2.2, binary=True)
    plane(two_rooms, 4.1, binary=False)
    plane(l_graded, 4.1, binary=False)
    plane(rooms_graded, 4.1, binary=False)
    plane(slit, 4.1, binary=False)
    gmsh.option.setNumber("Mesh.MeshSizeFactor", 1)  # the ball's spacing has it already
    gmsh.model.add("ball")
    ball(0.22 * size)
    write("ball", 2.2, binary=False)
    gmsh.finalize()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--size", type=float, default=1.0, help="factor on every mesh size")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="the folder to write to"
    )
    main(**vars(parser.parse_args()))
