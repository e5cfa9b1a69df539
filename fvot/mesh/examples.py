"""`example_mesh`: the meshes that come with fvot, by name.

``example_files`` beside this module is a link to the folder ``meshes`` of the repository; where
fvot is installed from a wheel it is a folder with copies of the mesh files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..parallel import Ranks
from .assembly import Patches
from .mesh import Mesh

FOLDER = Path(__file__).parent / "example_files"


def example_mesh(
    name: str, *, comm: Any = None, patches: Patches = "auto", strict: bool = True
) -> Mesh:
    """A mesh that comes with fvot, for examples and first trials. Collective.

    Parameters
    ----------
    name : str
        Which mesh:

        - "harbour": a basin, 4 x 2.5, with a mole and four islands; 7935 triangles; "inlet",
          "outlet", "mole", "islands", "shore";
        - "two_rooms": two unit squares and a door in the wall between them; 1974 triangles;
          "walls";
        - "l_shape": (-1, 1)^2 without its lower right quarter; 1302 triangles; "bottom",
          "notch", "right", "top", "left";
        - "disc": the unit disc; 1760 triangles; "circle";
        - "disc_quads": the same; 869 quadrilaterals, which are not orthogonal;
        - "annulus": 0.4 < r < 1; 1792 triangles; "outer", "inner";
        - "ball": the unit ball; 4221 tetrahedra; "sphere";
        - "l_graded", "rooms_graded": as "l_shape" and "two_rooms", ever finer towards the inner
          corners; 1040 and 1342 triangles;
        - "slit": the unit square with a slit from the bottom, ever finer towards its corners; 1229
          triangles; "walls", "slit".
    comm : MPI communicator, optional
        The ranks that share the mesh; None for all.
    patches : "auto", "none", int, array or function, optional
        The patches of cells for optimal transport, see `Mesh`.
    strict : bool, optional
        Whether to refuse a mesh that is not admissible, see `Mesh`.

    Returns
    -------
    Mesh

    Raises
    ------
    InputError
        For a name that is none of these.

    Examples
    --------
    >>> import fvot
    >>> mesh = fvot.example_mesh("harbour")
    >>> mesh.n_cells_global
    7935
    >>> sorted(mesh.boundary)
    ['inlet', 'islands', 'mole', 'outlet', 'shore']
    """
    files = {path.stem: path for path in sorted(FOLDER.glob("*.msh"))}
    known = isinstance(name, str) and name in files
    Ranks(comm).check(known, f"there is no example mesh {name!r}; there are {', '.join(files)}")
    return Mesh.read(files[name], comm=comm, patches=patches, strict=strict)
