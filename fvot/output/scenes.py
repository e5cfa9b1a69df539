"""The contents of a picture of a mesh: the cells as coloured faces that VTK draws, and what
Matplotlib adds to their image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments.types import Array, IntArray
from . import pvd

# Cells up to which their edges are drawn.
MAX_CELLS_WITH_EDGES = 1500

# How opaque edges are in a picture of values, and in one of the mesh.
FAINT_EDGES = 0.12
PLAIN_EDGES = 0.55

# Pixels that are drawn for one that is kept, along each axis.
PIXELS_PER_PIXEL = 2

# Degrees between two faces from which a line is drawn between them.
CREASE_ANGLE = 40

# Length, relative to the longest, below which an arrow would be a dot and is left out.
MIN_ARROW = 0.08

# From the domain to the eye, in 3D.
EYE_DIRECTION = np.array([0.55, -0.7, 0.45])


@dataclass(frozen=True)
class GatheredCells:
    """All cells, in the order of the ranks."""

    points: Array  # (dim, n_points)
    kind: IntArray  # (n_cells,)
    start: IntArray  # (n_cells + 1,)
    corners: IntArray
    walls: IntArray  # (width, n) points of boundary faces
    centroid: Array  # (dim, n_cells)

    @classmethod
    def join(cls, parts: Sequence[tuple[Any, ...]]) -> GatheredCells:
        """The parts of all ranks in one; a point that two ranks have stays double."""
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


def list_own_cells(mesh: Any) -> tuple[Any, ...]:
    """This rank's part of `GatheredCells`."""
    return (
        mesh.points,
        mesh.kind,
        np.diff(mesh.start),
        mesh.corners,
        mesh.vertices[:, mesh.n_inner :],
        mesh.centroid,
    )


class Scene:
    """Coloured faces in parallel projection.

    extent : (left, right, bottom, top) in the units of the points
    """

    def __init__(
        self,
        surface: Any,
        cell: Any,
        extent: tuple[float, float, float, float],
        eye: Array,
        focus: Array,
        up: Any,
    ) -> None:
        self.surface = surface
        self.cell = cell
        self.extent = extent
        self.eye = eye
        self.focus = focus
        self.up = up
        self.plotter: Any = None

    def draw_cells(self, rgb: IntArray, size: tuple[int, int]) -> IntArray:
        """The cells in their colours rgb (n_cells, 3) as an array (height, width, 3) of the given
        (width, height).
        """
        if self.plotter is None:
            self._begin(rgb, size)
        self.surface.cell_data["rgb"] = rgb[self.cell]
        self.plotter.render()
        fine = self.plotter.screenshot(None, return_img=True)
        width, height = size
        fine = fine.reshape(height, PIXELS_PER_PIXEL, width, PIXELS_PER_PIXEL, 3)
        return fine.mean(axis=(1, 3)).round().astype(np.uint8)

    def _begin(self, rgb, size):
        pyvista = pvd.import_pyvista()

        width, height = size
        window = [PIXELS_PER_PIXEL * width, PIXELS_PER_PIXEL * height]
        self.surface.cell_data["rgb"] = rgb[self.cell]
        self.plotter = pyvista.Plotter(off_screen=True, window_size=window)
        self.plotter.set_background("white")
        self.plotter.add_mesh(self.surface, scalars="rgb", rgb=True, lighting=False)
        self.decorate(self.plotter)

        camera = self.plotter.camera
        camera.position = self.focus + self.eye
        camera.focal_point = self.focus
        camera.up = self.up
        camera.parallel_projection = True
        left, right = self.extent[:2]
        camera.parallel_scale = (right - left) / 2 * height / width
        self.plotter.reset_camera_clipping_range()

    def close(self) -> None:
        """Release what VTK holds."""
        if self.plotter is not None:
            self.plotter.close()

    def decorate(self, plotter: Any) -> None:
        """Add lines in VTK."""

    def dress(self, axes: Any, velocity: Array | None, dots: Array | None, is_first: bool) -> None:
        """Add what Matplotlib draws to the image of the cells; *is_first*: the leftmost panel."""


class Plane(Scene):
    """A mesh in the plane.

    seam : draw the edge of the box, through which a periodic mesh goes
    has_edges : draw the edges of the cells so that they are seen; else faintly, if cells are few
    """

    def __init__(self, cells: GatheredCells, seam: bool, has_edges: bool = False) -> None:
        pyvista = pvd.import_pyvista()

        lower = cells.points.min(axis=1)
        upper = cells.points.max(axis=1)
        size = (upper - lower).max()
        margin = 0.015 * size
        left, bottom = lower - margin
        right, top = upper + margin
        extent = (left, right, bottom, top)
        grid = pvd.build_grid(cells.points, cells.kind, cells.start, cells.corners)
        surface = pyvista.PolyData()
        surface.SetPoints(grid.GetPoints())
        surface.SetPolys(grid.GetCells())
        middle = (lower + upper) / 2
        focus = np.array([*middle, 0])
        eye = np.array([0, 0, size])
        super().__init__(surface, slice(None), extent, eye, focus, (0, 1, 0))

        self.walls = cells.points[:, cells.walls].T  # (n, 2, dim)
        self.box = (lower, upper) if seam else None
        self.edge_opacity = FAINT_EDGES if len(cells.kind) <= MAX_CELLS_WITH_EDGES else 0.0
        if has_edges:
            self.edge_opacity = PLAIN_EDGES
        self.centroid = cells.centroid

    def decorate(self, plotter: Any) -> None:
        if self.edge_opacity:
            once = self.surface.clean()  # edges that two ranks have would be drawn twice
            plotter.add_mesh(
                once.extract_all_edges(),
                color="black",
                opacity=self.edge_opacity,
                line_width=PIXELS_PER_PIXEL,
                lighting=False,
            )

    def dress(self, axes: Any, velocity: Array | None, dots: Array | None, is_first: bool) -> None:
        from matplotlib.collections import LineCollection
        from matplotlib.patches import Rectangle

        if self.box is not None:
            lower, upper = self.box
            rectangle = Rectangle(
                lower,
                *(upper - lower),
                fill=False,
                linestyle=(0, (4, 4)),
                color="0.5",
                linewidth=0.8,
            )
            axes.add_patch(rectangle)
        walls = LineCollection([*self.walls], colors="black", linewidths=1.1, capstyle="round")
        axes.add_collection(walls, autolim=False)
        if velocity is not None:
            self._add_arrows(axes, velocity)
        if dots is not None:
            axes.scatter(*dots, s=7, c="black", edgecolors="white", linewidths=0.3)
        axes.spines[:].set_visible(False)
        axes.tick_params(color="0.4", labelcolor="0.2", labelsize=10, labelleft=is_first)

    def _add_arrows(self, axes, velocity):
        """One arrow in each square of a lattice, at the cell nearest to its middle."""
        left, right, bottom, top = self.extent
        corner = np.array([[left], [bottom]])
        side = max(right - left, top - bottom) / 28
        square = np.floor((self.centroid - corner) / side)
        middle = corner + (square + 0.5) * side
        key = square[0] * 1000 + square[1]
        square_distance = ((self.centroid - middle) ** 2).sum(axis=0)
        order = np.lexsort((square_distance, key))
        _, first_of_square = np.unique(key[order], return_index=True)
        nearest = order[first_of_square]

        length = np.linalg.norm(velocity[:, nearest], axis=0)
        longest = length.max()
        seen = nearest[length > MIN_ARROW * longest]
        if longest > 0:
            axes.quiver(
                *self.centroid[:, seen],
                *velocity[:, seen],
                angles="xy",
                scale_units="xy",
                scale=longest / (1.3 * side),
                width=0.0028,
                pivot="mid",
                color="white",
                edgecolor="black",
                linewidth=0.4,
            )


class Solid(Scene):
    """A mesh in space, with the octant towards the eye cut out at a given centre.

    ink : the colour of its edges
    has_edges : draw the edges of the cells
    """

    def __init__(
        self, cells: GatheredCells, center: Array, ink: str, has_edges: bool = False
    ) -> None:
        self.has_edges = has_edges
        size = np.ptp(cells.points, axis=1).max()
        grid = pvd.build_grid(cells.points, cells.kind, cells.start, cells.corners)
        # A cut along faces of cells could show either side of them: cut a little beyond.
        cut = center - 1e-5 * size * np.sign(EYE_DIRECTION)
        clean_grid = _clean(grid)
        surface, self.edges = _open_octant(clean_grid, cut)

        eye = EYE_DIRECTION / np.linalg.norm(EYE_DIRECTION)
        horizontal = np.cross([0, 0, 1], eye)
        right = horizontal / np.linalg.norm(eye[:2])
        up = np.cross(eye, right)
        self.screen = np.stack([right, up])
        self.ink = ink
        lower = cells.points.min(axis=1)
        upper = cells.points.max(axis=1)
        self.box = np.stack([lower, upper])

        scale_ends = [ends.T for ends in self._find_scale_edges()]
        all_points = np.concatenate([cells.points, *scale_ends], axis=1)
        shown = self.screen @ all_points
        margin = 0.01 * np.ptp(shown, axis=1).max()
        low = shown.min(axis=1) - margin
        high = shown.max(axis=1) + margin
        extent = (low[0], high[0], low[1], high[1])
        across = right * (low[0] + high[0]) / 2
        upward = up * (low[1] + high[1]) / 2
        towards_eye = eye * (eye @ center)
        focus = across + upward + towards_eye
        cell = surface.cell_data["cell"]
        super().__init__(surface, cell, extent, 4 * size * eye, focus, up)

    def decorate(self, plotter: Any) -> None:
        pyvista = pvd.import_pyvista()
        from vtkmodules.vtkFiltersHybrid import vtkPolyDataSilhouette

        silhouette = vtkPolyDataSilhouette()
        silhouette.SetDirectionToSpecifiedVector()
        silhouette.SetVector(*-self.eye)
        silhouette.SetEnableFeatureAngle(0)
        rim = pyvista.wrap(_run_filter(silhouette, self.surface))
        if self.has_edges:
            edges = self.surface.extract_all_edges()
            edges.clear_data()
            edges.points = np.asarray(edges.points, float) + 5e-4 * self.eye
            plotter.add_mesh(edges, color="dimgray", line_width=PIXELS_PER_PIXEL, lighting=False)
        for lines, color in ((rim, "black"), (self.edges, self.ink)):
            if lines.n_cells:
                # towards the eye: otherwise faces hide half of each line
                lines.points = np.asarray(lines.points, float) + 5e-4 * self.eye
                width = 1.3 * PIXELS_PER_PIXEL
                plotter.add_mesh(lines, color=color, line_width=width, lighting=False)

    def _find_scale_edges(self) -> Iterator[Array]:
        """The ends of the three edges of the bounding box that carry scales."""
        near = np.where(EYE_DIRECTION > 0, 1, 0)  # per axis, the end of the box towards the eye
        near_x, near_y, _ = near
        corners = (
            (0, near_y, 0),
            (near_x, 0, 0),
            (1 - near_x, near_y, 0),
        )
        for axis, corner in enumerate(corners):
            point = np.choose(corner, self.box)
            ends = np.repeat(point[None], 2, axis=0)
            ends[:, axis] = self.box[:, axis]
            yield ends

    def dress(self, axes: Any, velocity: Array | None, dots: Array | None, is_first: bool) -> None:
        """Scales along three edges of the bounding box."""
        axes.set_axis_off()
        if not is_first:
            return
        for axis, ends in enumerate(self._find_scale_edges()):
            self._add_scale(axes, axis, ends)

    def _add_scale(self, axes, axis, ends):
        from matplotlib.ticker import MaxNLocator

        low, high = self.box[:, axis]
        longest = np.ptp(self.box, axis=0).max()
        n_ticks = max(1, round(4 * (high - low) / longest))
        locator = MaxNLocator(n_ticks, steps=[1, 2, 5, 10])
        ticks = locator.tick_values(low, high)
        rounding = 1e-9 * longest
        is_shown = (ticks > low - rounding) & (ticks < high + rounding)
        ticks = ticks[is_shown]

        a, b = ends @ self.screen.T
        step = b - a
        outward = np.array([step[1], -step[0]]) / np.linalg.norm(step)
        middle_of_box = self.screen @ self.box.mean(axis=0)
        from_middle = (a + b) / 2 - middle_of_box
        outward *= np.sign(outward @ from_middle)
        line = np.stack([a, b]).T
        axes.plot(*line, color="0.6", linewidth=0.6, zorder=0)
        labels = [
            *[(tick, f"{tick:.4g}", 12, 9) for tick in ticks],
            ((low + high) / 2, "xyz"[axis], 30, 11),
        ]
        for value, label, offset, size in labels:
            part = (value - low) / (high - low)
            axes.annotate(
                label,
                a + part * step,
                offset * outward,
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=size,
                color="0.2",
                annotation_clip=False,
            )


def _clean(grid):
    """The grid with numbered cells, and without second copies of points that two ranks have."""
    from vtkmodules.util.numpy_support import numpy_to_vtk
    from vtkmodules.vtkFiltersCore import vtkStaticCleanUnstructuredGrid

    number = numpy_to_vtk(np.arange(grid.GetNumberOfCells()), deep=True)
    number.SetName("cell")
    grid.GetCellData().AddArray(number)
    return _run_filter(vtkStaticCleanUnstructuredGrid(), grid)


def _open_octant(grid, center):
    """(the surface without the octant towards the eye, with the cuts that bound it; the edges of
    both).
    """
    from vtkmodules.vtkFiltersGeometry import vtkGeometryFilter

    outer = _run_filter(vtkGeometryFilter(), grid)
    cuts = [_cut(grid, axis, center) for axis in range(3)]
    creases = _find_edges(outer, creases=True)
    rims = [_find_edges(cut, creases=False) for cut in cuts]
    surface = _join([*_remove_octant(outer, center), *cuts])
    return surface, _join([*_remove_octant(creases, center), *rims])


def _remove_octant(surface, center):
    """The pieces of a surface outside the octant towards the eye."""
    pieces = []
    for axis in range(3):
        pieces.append(_clip(surface, axis, center, toward=False))
        surface = _clip(surface, axis, center, toward=True)
    return pieces


def _cut(grid, axis, center):
    """The quarter of the plane through the centre that bounds the octant towards the eye."""
    from vtkmodules.vtkFiltersCore import vtkCleanPolyData, vtkCutter

    cutter = vtkCutter()
    cutter.SetCutFunction(_make_plane(axis, center))
    cutter.GenerateTrianglesOff()
    cut = _run_filter(cutter, grid)
    for other in {0, 1, 2} - {axis}:
        cut = _clip(cut, other, center, toward=True)
    return _run_filter(vtkCleanPolyData(), cut)


def _find_edges(surface, creases):
    """The rim of a surface, or its creases, as lines."""
    from vtkmodules.vtkFiltersCore import vtkFeatureEdges

    edges = vtkFeatureEdges()
    edges.SetBoundaryEdges(not creases)
    edges.SetFeatureEdges(creases)
    edges.SetFeatureAngle(CREASE_ANGLE)
    edges.NonManifoldEdgesOff()
    edges.ColoringOff()
    return _run_filter(edges, surface)


def _join(pieces):
    pyvista = pvd.import_pyvista()
    from vtkmodules.vtkFiltersCore import vtkAppendPolyData

    append = vtkAppendPolyData()
    for piece in pieces:
        append.AddInputData(piece)
    append.Update()
    return pyvista.wrap(append.GetOutput())


def _make_plane(axis, center):
    from vtkmodules.vtkCommonDataModel import vtkPlane

    plane = vtkPlane()
    plane.SetOrigin(*center)
    plane.SetNormal(*np.eye(3)[axis] * np.sign(EYE_DIRECTION[axis]))
    return plane


def _clip(surface, axis, center, toward):
    """The part of a surface on one side of a plane through the centre: towards the eye, or away."""
    from vtkmodules.vtkFiltersCore import vtkClipPolyData

    clip = vtkClipPolyData()
    clip.SetClipFunction(_make_plane(axis, center))
    clip.SetInsideOut(not toward)
    return _run_filter(clip, surface)


def _run_filter(algorithm, data):
    algorithm.SetInputData(data)
    algorithm.Update()
    return algorithm.GetOutput()
