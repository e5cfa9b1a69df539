"""What stands in a picture of a mesh: the cells as coloured faces that VTK draws, and what
Matplotlib adds to their image.
"""

from dataclasses import dataclass

import numpy as np

from . import pvd

FINEST_EDGES = 1500  # cells up to which their edges are drawn
SHARPER = 2  # pixels drawn for one that is kept, along each axis
CREASE = 40  # degrees between two faces from which a line is drawn between them
SEEN_FROM = np.array([0.55, -0.7, 0.45])  # from the domain to the eye, in 3D


@dataclass(frozen=True)
class Whole:
    """All cells, in the order of the ranks."""

    points: np.ndarray  # (dim, n_points)
    kind: np.ndarray
    start: np.ndarray
    corners: np.ndarray
    walls: np.ndarray  # (width, n) points of boundary faces
    centroid: np.ndarray

    @classmethod
    def joined(cls, parts):
        """The parts of the ranks in one; points that two ranks have stay double."""
        points, kind, length, corners, walls, centroid = zip(*parts)
        shift = np.cumsum([0, *[p.shape[1] for p in points]])
        return cls(
            np.concatenate(points, axis=1),
            np.concatenate(kind),
            np.concatenate([[0], np.cumsum(np.concatenate(length))]),
            np.concatenate([c + s for c, s in zip(corners, shift)]),
            np.concatenate([w + s for w, s in zip(walls, shift)], axis=1),
            np.concatenate(centroid, axis=1),
        )


class Scene:
    """Coloured faces seen in parallel projection: `extent` (left, right, bottom, top) in the units
    of the points.
    """

    def __init__(self, surface, cell, extent, eye, focus, up):
        self.surface = surface
        self.cell = cell
        self.extent = extent
        self.eye = eye
        self.focus = focus
        self.up = up
        self.plotter = None

    def image(self, rgb, size):
        """The cells in their colours rgb (n_cells, 3) as an array (height, width, 3) of the given
        (width, height).
        """
        if self.plotter is None:
            self._begin(rgb, size)
        self.surface.cell_data["rgb"] = rgb[self.cell]
        self.plotter.render()
        fine = self.plotter.screenshot(None, return_img=True)
        return (
            fine.reshape(size[1], SHARPER, size[0], SHARPER, 3)
            .mean(axis=(1, 3))
            .round()
            .astype(np.uint8)
        )

    def _begin(self, rgb, size):
        import pyvista

        self.surface.cell_data["rgb"] = rgb[self.cell]
        self.plotter = pyvista.Plotter(off_screen=True, window_size=[SHARPER * n for n in size])
        self.plotter.set_background("white")
        self.plotter.add_mesh(self.surface, scalars="rgb", rgb=True, lighting=False)
        self.decorate(self.plotter)
        camera = self.plotter.camera
        camera.position = self.focus + self.eye
        camera.focal_point = self.focus
        camera.up = self.up
        camera.parallel_projection = True
        camera.parallel_scale = (self.extent[1] - self.extent[0]) / 2 * size[1] / size[0]
        self.plotter.reset_camera_clipping_range()

    def close(self):
        """Give back what VTK holds."""
        if self.plotter is not None:
            self.plotter.close()

    def decorate(self, plotter):
        """Add lines in VTK."""

    def dress(self, axes, velocity, dots, first):
        """Add to the image of the cells what Matplotlib draws; *first*: the leftmost of the panels."""


class Plane(Scene):
    """A mesh in the plane."""

    def __init__(self, whole, seam):
        import pyvista

        lower, upper = whole.points.min(axis=1), whole.points.max(axis=1)
        room = 0.015 * (upper - lower).max()
        extent = (lower[0] - room, upper[0] + room, lower[1] - room, upper[1] + room)
        grid = pvd.grid(whole.points, whole.kind, whole.start, whole.corners)
        surface = pyvista.PolyData()
        surface.SetPoints(grid.GetPoints())
        surface.SetPolys(grid.GetCells())
        focus = np.array([*(lower + upper) / 2, 0])
        distance = (upper - lower).max()
        super().__init__(surface, slice(None), extent, np.array([0, 0, distance]), focus, (0, 1, 0))
        self.walls = whole.points[:, whole.walls].T  # (n, 2, dim)
        self.box = (lower, upper) if seam else None
        self.edges = len(whole.kind) <= FINEST_EDGES
        self.centroid = whole.centroid

    def decorate(self, plotter):
        if self.edges:
            once = self.surface.clean()  # what two ranks have would be drawn twice
            plotter.add_mesh(
                once.extract_all_edges(),
                color="black",
                opacity=0.12,
                line_width=SHARPER,
                lighting=False,
            )

    def dress(self, axes, velocity, dots, first):
        from matplotlib.collections import LineCollection
        from matplotlib.patches import Rectangle

        if self.box is not None:
            lower, upper = self.box
            dashes = dict(linestyle=(0, (4, 4)), color="0.5", linewidth=0.8)
            axes.add_patch(Rectangle(lower, *(upper - lower), fill=False, **dashes))
        axes.add_collection(
            LineCollection(self.walls, colors="black", linewidths=1.1, capstyle="round"),
            autolim=False,
        )
        if velocity is not None:
            self._arrows(axes, velocity)
        if dots is not None:
            axes.scatter(*dots, s=7, c="black", edgecolors="white", linewidths=0.3)
        axes.spines[:].set_visible(False)
        axes.tick_params(color="0.4", labelcolor="0.2", labelsize=10, labelleft=first)

    def _arrows(self, axes, velocity):
        left, right, bottom, top = self.extent
        side = max(right - left, top - bottom) / 28
        across = np.floor((self.centroid - [[left], [bottom]]) / side)
        middle = np.array([[left], [bottom]]) + (across + 0.5) * side
        key = across[0] * 1000 + across[1]
        order = np.lexsort((((self.centroid - middle) ** 2).sum(axis=0), key))
        chosen = order[
            np.unique(key[order], return_index=True)[1]
        ]  # in each square the cell nearest to its middle
        length = np.linalg.norm(velocity[:, chosen], axis=0).max()
        if length > 0:
            axes.quiver(
                *self.centroid[:, chosen],
                *velocity[:, chosen],
                angles="xy",
                scale_units="xy",
                scale=length / (1.3 * side),
                width=0.0028,
                pivot="mid",
                color="white",
                edgecolor="black",
                linewidth=0.4,
            )


class Solid(Scene):
    """A mesh in space, with the octant towards the eye cut out at a given centre; *ink*: the colour
    of its edges.
    """

    def __init__(self, whole, center, ink):
        size = np.ptp(whole.points, axis=1).max()
        grid = _cleaned(pvd.grid(whole.points, whole.kind, whole.start, whole.corners))
        # a cut along faces of cells could show either side of them: it goes a little beyond
        surface, self.edges = _opened(grid, center - 1e-5 * size * np.sign(SEEN_FROM))
        eye = SEEN_FROM / np.linalg.norm(SEEN_FROM)
        right = np.cross([0, 0, 1], eye) / np.linalg.norm(eye[:2])
        up = np.cross(eye, right)
        self.screen = np.stack([right, up])
        self.ink = ink
        self.box = np.stack([whole.points.min(axis=1), whole.points.max(axis=1)])
        seen = self.screen @ np.concatenate(
            [whole.points, *[np.stack(edge).T for edge in self._scale_edges()]], axis=1
        )
        room = 0.01 * np.ptp(seen, axis=1).max()
        extent = (
            seen[0].min() - room,
            seen[0].max() + room,
            seen[1].min() - room,
            seen[1].max() + room,
        )
        focus = (
            right * (extent[0] + extent[1]) / 2
            + up * (extent[2] + extent[3]) / 2
            + eye * (eye @ center)
        )
        super().__init__(surface, surface.cell_data["cell"], extent, 4 * size * eye, focus, up)

    def decorate(self, plotter):
        import pyvista
        from vtkmodules.vtkFiltersHybrid import vtkPolyDataSilhouette

        rim = vtkPolyDataSilhouette()
        rim.SetDirectionToSpecifiedVector()
        rim.SetVector(*-self.eye)
        rim.SetEnableFeatureAngle(0)
        for lines, color in (
            (pyvista.wrap(_filtered(rim, self.surface)), "black"),
            (self.edges, self.ink),
        ):
            if lines.n_cells:
                lines.points = (
                    np.asarray(lines.points, float) + 5e-4 * self.eye
                )  # else faces hide half of each
                plotter.add_mesh(lines, color=color, line_width=1.3 * SHARPER, lighting=False)

    def _scale_edges(self):
        """The ends of the three edges of the bounding box that carry scales."""
        near = np.where(SEEN_FROM > 0, 1, 0)  # per axis, the end of the box towards the eye
        for axis, corner in enumerate(
            ((0, near[1], 0), (near[0], 0, 0), (1 - near[0], near[1], 0))
        ):
            ends = np.repeat(np.choose(corner, self.box)[None], 2, axis=0)
            ends[:, axis] = self.box[:, axis]
            yield ends

    def dress(self, axes, velocity, dots, first):
        """Scales along three edges of the bounding box."""
        axes.set_axis_off()
        if not first:
            return
        for axis, ends in enumerate(self._scale_edges()):
            self._scale(axes, axis, ends)

    def _scale(self, axes, axis, ends):
        from matplotlib.ticker import MaxNLocator

        low, high = self.box[:, axis]
        longest = np.ptp(self.box, axis=0).max()
        ticks = MaxNLocator(
            max(1, round(4 * (high - low) / longest)), steps=[1, 2, 5, 10]
        ).tick_values(low, high)
        ticks = ticks[(ticks > low - 1e-9 * longest) & (ticks < high + 1e-9 * longest)]
        a, b = ends @ self.screen.T
        outward = np.array([(b - a)[1], (a - b)[0]]) / np.linalg.norm(b - a)
        outward *= np.sign(outward @ ((a + b) / 2 - self.screen @ self.box.mean(axis=0)))
        labels = [
            *[(tick, f"{tick:.4g}", 12, 9) for tick in ticks],
            ((low + high) / 2, "xyz"[axis], 30, 11),
        ]
        axes.plot(*np.stack([a, b]).T, color="0.6", linewidth=0.6, zorder=0)
        for place, label, far, size in labels:
            axes.annotate(
                label,
                a + (place - low) / (high - low) * (b - a),
                far * outward,
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=size,
                color="0.2",
                annotation_clip=False,
            )


def _cleaned(grid):
    """The grid with its cells numbered, and with the points merged that two ranks have."""
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkFiltersCore import vtkStaticCleanUnstructuredGrid

    number = numpy_to_vtk(np.arange(grid.GetNumberOfCells()), deep=True)
    number.SetName("cell")
    grid.GetCellData().AddArray(number)
    return _filtered(vtkStaticCleanUnstructuredGrid(), grid)


def _opened(grid, center):
    """The surface without the octant towards the eye, with the cuts that this lays open, and the
    edges of both.
    """
    from vtkmodules.vtkFiltersGeometry import vtkGeometryFilter

    outer = _filtered(vtkGeometryFilter(), grid)
    cuts = [_cut(grid, axis, center) for axis in range(3)]
    edges = _edges(outer, creases=True)
    return (
        _joined([*_without_octant(outer, center), *cuts]),
        _joined([*_without_octant(edges, center), *[_edges(cut, creases=False) for cut in cuts]]),
    )


def _without_octant(surface, center):
    pieces = []
    for axis in range(3):
        pieces.append(_clipped(surface, axis, center, toward=False))
        surface = _clipped(surface, axis, center, toward=True)
    return pieces


def _cut(grid, axis, center):
    """The quarter of the plane through the centre that bounds the octant towards the eye."""
    from vtkmodules.vtkFiltersCore import vtkCleanPolyData, vtkCutter

    cutter = vtkCutter()
    cutter.SetCutFunction(_plane(axis, center))
    cutter.GenerateTrianglesOff()
    cut = _filtered(cutter, grid)
    for other in {0, 1, 2} - {axis}:
        cut = _clipped(cut, other, center, toward=True)
    return _filtered(vtkCleanPolyData(), cut)


def _edges(surface, creases):
    """The rim of a surface, or its creases, as lines."""
    from vtkmodules.vtkFiltersCore import vtkFeatureEdges

    edges = vtkFeatureEdges()
    edges.SetBoundaryEdges(not creases)
    edges.SetFeatureEdges(creases)
    edges.SetFeatureAngle(CREASE)
    edges.NonManifoldEdgesOff()
    edges.ColoringOff()
    return _filtered(edges, surface)


def _joined(pieces):
    import pyvista
    from vtkmodules.vtkFiltersCore import vtkAppendPolyData

    append = vtkAppendPolyData()
    for piece in pieces:
        append.AddInputData(piece)
    append.Update()
    return pyvista.wrap(append.GetOutput())


def _plane(axis, center):
    from vtkmodules.vtkCommonDataModel import vtkPlane

    plane = vtkPlane()
    plane.SetOrigin(*center)
    plane.SetNormal(*np.eye(3)[axis] * np.sign(SEEN_FROM[axis]))
    return plane


def _clipped(surface, axis, center, toward):
    """The part of a surface on the side of the centre towards the eye, or away from it, along one
    axis.
    """
    from vtkmodules.vtkFiltersCore import vtkClipPolyData

    clip = vtkClipPolyData()
    clip.SetClipFunction(_plane(axis, center))
    clip.SetInsideOut(not toward)
    return _filtered(clip, surface)


def _filtered(algorithm, data):
    algorithm.SetInputData(data)
    algorithm.Update()
    return algorithm.GetOutput()
