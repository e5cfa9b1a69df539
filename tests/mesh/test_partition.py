"""How a mesh is divided among ranks: in equal parts, few faces between them, and the same way
again.
"""

import hashlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fvot import Mesh
from fvot.mesh.partition import divide
from fvot.mesh.patches import adjacency

AGAIN = """
import hashlib, fvot, test_partition
parts = test_partition.parts_of(fvot.Mesh.triangles((0, 0), (1, 1), 60), 8)
print(hashlib.sha256(parts.tobytes()).hexdigest())
"""

MESHES = {
    "triangles": lambda: Mesh.triangles((0, 0), (1, 1), 60),
    "polygons": lambda: Mesh.voronoi((0, 0), (2, 1), 2000),
    "tetrahedra": lambda: Mesh.tetrahedra((0, 0, 0), (1, 1, 1), 12),
}


def parts_of(mesh, n_ranks):
    """The rank of each cell of a mesh on one rank, as if there were so many."""
    whole = SimpleNamespace(levels=list(mesh.levels), n_cells=mesh.n_cells, centroid=mesh.centroid)
    return divide(whole, adjacency(mesh, mesh.n_cells), n_ranks)


def test_a_program_that_runs_again_has_the_same_parts():
    """Then explicit steps, sums included, are the same to the last bit."""
    hashes = {
        subprocess.run(
            [sys.executable, "-c", AGAIN],
            cwd=Path(__file__).parent,
            text=True,
            capture_output=True,
            check=True,
        ).stdout
        for _ in range(3)
    }
    assert len(hashes) == 1 and len(hashes.pop().strip()) == hashlib.sha256().digest_size * 2


@pytest.mark.parametrize("n_ranks", [2, 3, 8])
@pytest.mark.parametrize("kind", MESHES)
def test_parts_are_equal_and_their_borders_short(kind, n_ranks):
    mesh = MESHES[kind]()
    part = parts_of(mesh, n_ranks)
    count = np.bincount(part, minlength=n_ranks)
    assert (
        count.min() > 0.85 * mesh.n_cells / n_ranks and count.max() < 1.15 * mesh.n_cells / n_ranks
    )
    cut = (part[mesh.left[: mesh.n_inner]] != part[mesh.right[: mesh.n_inner]]).sum()
    # cubes of equal size have dim * n_ranks^(1/dim) sides between them at most, of as many faces as
    # the mesh has across
    across = 2 * mesh.n_inner / mesh.n_cells * mesh.n_cells ** (1 - 1 / mesh.dim)
    assert cut < mesh.dim * n_ranks ** (1 / mesh.dim) * across
    first = np.unique(mesh.patch, return_index=True)[1]
    assert (part == part[first][np.searchsorted(np.unique(mesh.patch), mesh.patch)]).all(), (
        "a patch is divided"
    )
