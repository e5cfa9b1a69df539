"""A mesh with fields at one time: files, pictures, and pyvista's grids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arguments.types import Array, Path
from ..errors import InputError
from . import pvd
from .drawing import check_can_draw
from .figures import draw_mesh, draw_mesh_into, save_figure
from .plot import PICTURE_SUFFIXES, Look, check_axes, check_width, draw_times
from .scenes import GatheredCells, Plane, Solid, list_own_cells
from .series import FORMATS, NAMES_OF_FILES, build_field, check_field_name

# What a mesh is written to.
MESH_SUFFIXES = ".vtu", *FORMATS


class Still:
    """Fields {name: cell values} of a mesh without a time, as a result that can be drawn."""

    t = np.full(1, np.nan)

    def __init__(self, mesh: Any, fields: Mapping[str, Array]) -> None:
        self.mesh = mesh
        self.fields = {name: values[None] for name, values in fields.items()}


# ---- files and grids -----------------------------------------------------------------------------


def write_mesh(mesh: Any, path: Path, fields: Mapping[str, Any]) -> None:
    """Write a mesh with fields of a user's own. Collective."""
    values = _build_fields(mesh, fields)
    path = pvd.check_path(mesh.ranks, path, *MESH_SUFFIXES)
    if path.suffix != ".vtu":
        series = FORMATS[path.suffix](path, mesh)
        series.add(0.0, values)
        series.close()
        return
    cells = mesh.gather_cells()
    rows = _gather_rows(mesh, values)
    mesh.ranks.on_root(_write_vtu, path, cells, rows)


def _write_vtu(path, cells, rows):
    with pvd.explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        pvd.write_text(path, pvd.format_vtu(pvd.build_grid(*cells), rows))


def build_pyvista_grid(mesh: Any, fields: Mapping[str, Any]) -> Any:
    """A mesh with fields as a pyvista.UnstructuredGrid, on every rank. Collective."""
    values = _build_fields(mesh, fields)
    points, kind, start, corners = mesh.ranks.broadcast(mesh.gather_cells())
    rows = _gather_rows(mesh, values)
    return pvd.build_pyvista_grid(points, kind, start, corners, rows)


def _build_fields(mesh, fields):
    """{name: cell values}, checked."""
    ranks = mesh.ranks
    with ranks.raising_together():
        if not isinstance(fields, Mapping):
            raise InputError(f"fields must be a dict {{name: values}}, not {fields!r:.60}")
        for name in fields:
            check_field_name(name)
            if name in NAMES_OF_FILES:
                raise InputError(
                    f"a field cannot be called {name!r:.60}: take another word than "
                    f"{' and '.join(NAMES_OF_FILES)}, which files have"
                )
    ranks.check_same("the names of fields", list(fields))
    with ranks.raising_together():
        built = {name: build_field(mesh, name, given, 0.0)(0.0) for name, given in fields.items()}
    for name, values in built.items():
        ranks.check_same(f"the kind of field {name!r}", values.shape[:-1])
    return built


def _gather_rows(mesh, values):
    """{name: rows in VTK's form} of the whole mesh, in the file's order."""
    own = np.full(mesh.n_cells, mesh.ranks.rank, np.int32)
    whole = {name: mesh.gather(u) for name, u in values.items()}
    whole |= {"rank": mesh.gather(own), "cell": np.arange(mesh.n_cells_global)}
    return {name: pvd.as_field_rows(name, u, mesh.n_cells_global) for name, u in whole.items()}


# ---- pictures ------------------------------------------------------------------------------------


def plot_values(
    mesh: Any,
    values: Any,
    path: Path | None = None,
    *,
    label: str = "value",
    clim: tuple[float, float] | None = None,
    cmap: Any = "viridis",
    log: bool = False,
    along: Any = None,
    arrows: Any = None,
    width: int = 1200,
    ax: Any = None,
) -> Any:
    """Draw cell values; see `Mesh.plot`. Collective."""
    fields = {label: values}
    vectors: bool | str = False
    if arrows is not None:
        vectors = f"arrows on {label}"
        fields[vectors] = arrows
    still = Still(mesh, _build_fields(mesh, fields))
    look = Look(label, clim, cmap, log, along, vectors, width=width)
    return draw_times(still, look, [0], path, ax)


def plot_mesh(
    mesh: Any, path: Path | None = None, *, width: int = 1200, ax: Any = None, **options: Any
) -> Any:
    """Draw the edges of cells, regions and the names of the boundary; see `Mesh.plot`.

    options : those that need values, which are refused. Collective.
    """
    ranks = mesh.ranks
    unfit = ", ".join(options)
    ranks.check(
        not options,
        f"a picture of the mesh alone takes width= and ax=, not {unfit}: for values in its cells "
        "write mesh.plot(values, ...), which takes label, clim, cmap, log, along, arrows, width "
        "and ax",
    )
    if path is not None:
        path = pvd.check_path(ranks, path, *PICTURE_SUFFIXES)
    with ranks.raising_together():
        check_width(width)
    ranks.on_root(check_axes, ax)
    region = np.full(mesh.n_cells, -1)
    regions = [str(name) for name in mesh.regions] if len(mesh.regions) > 1 else []
    for i, cells in enumerate(mesh.regions.values() if regions else ()):
        region[cells] = i
    drawn = mesh.boundary.items() if mesh.dim < 3 else ()
    sides = {str(name): mesh.points[:, mesh.vertices[:, faces]] for name, faces in drawn}
    parts = ranks.gather_to_root((list_own_cells(mesh), region, sides))
    figure = ranks.on_root(_draw_mesh, mesh, parts, regions, width, ax, path)
    return figure if path is None and ax is None else None


def _draw_mesh(mesh, parts, regions, width, ax, path):
    own, region, sides = zip(*parts)
    cells = GatheredCells.join(own)
    names = {name: np.concatenate([part[name] for part in sides], axis=-1) for name in sides[0]}
    scene = _build_scene(mesh, cells)
    try:
        look = (scene, cells, np.concatenate(region), regions, names)
        if ax is None:
            figure = draw_mesh(*look, width)
        else:
            draw_mesh_into(ax, *look, width)
            figure = ax.figure
    finally:
        if scene is not None:
            scene.close()
    if path is not None:
        save_figure(figure, path)
    return figure


def _build_scene(mesh, cells):
    dim = len(cells.points)
    if dim == 1:
        return None
    check_can_draw()
    if dim == 3:
        return Solid(cells, mesh.bounds.mean(axis=0), "black", has_edges=True)
    return Plane(cells, seam=mesh.block is not None and any(mesh.block.periodic), has_edges=True)
