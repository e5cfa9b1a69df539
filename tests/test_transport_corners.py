"""Optimal transport round corners: all mass passes through the corner, so W2^2 is known from distances to it."""
from pathlib import Path

import numpy as np
import pytest

from fvot import BenamouBrenier, Mesh

pytestmark = pytest.mark.ranks

MESHES = Path(__file__).parent.parent / "meshes"
# file: start, target, the corner that all ways between them touch (two corners for the slit's tip and the door)
ROUND = {"l_graded": ((-0.15, -0.6), (0.6, 0.15), [(0.0, 0.0)]),
         "slit": ((0.3, 0.3), (0.7, 0.3), [(0.48, 0.6), (0.52, 0.6)]),
         "rooms_graded": ((0.5, 0.3), (1.6, 0.3), [(1.0, 0.55), (1.1, 0.55)])}


@pytest.mark.parametrize("name, measure", [("l_graded", 3), ("slit", 0.976), ("rooms_graded", 2.02)])
def test_graded_meshes(name, measure):
    mesh = Mesh.read(MESHES / f"{name}.msh")
    assert mesh.integrate(1.0) == pytest.approx(measure, rel=1e-9)
    assert mesh.ranks.max(mesh.volume.max()) > 50 * mesh.ranks.min(mesh.volume.min())


def bump(mesh, at, width):
    return mesh.density(lambda x: np.maximum(1 - ((x - np.reshape(at, (2, 1)))**2).sum(axis=0) / width**2, 0)**2)


def exact(mesh, rho, corners):
    """Cost (r + between + s)^2 of the distances r, s to the corners: far ones on one side go with near ones on the other."""
    p = (np.arange(100_000) + 0.5) / 100_000
    far = []
    for density, corner in zip(rho, (corners[0], corners[-1])):
        distance = mesh.gather(np.hypot(*(mesh.centroid - np.reshape(corner, (2, 1)))))
        mass = mesh.gather(density * mesh.volume)
        order = np.argsort(distance)
        far.append(np.interp(p, np.cumsum(mass[order]) - mass[order] / 2, distance[order]))
    between = np.hypot(*(np.array(corners[-1]) - corners[0]))
    return ((far[0] + between + far[1][::-1])**2).mean()


def paths(name, width, n_steps, tol):
    """[(path, exact cost)] on the mesh, and with every triangle cut in four and twice as many steps."""
    start, target, corners = ROUND[name]
    mesh = Mesh.read(MESHES / f"{name}.msh")
    found = []
    for steps, each in ((n_steps, mesh), (2 * n_steps, mesh.refine())):
        rho = [bump(each, at, width) for at in (start, target)]
        path = BenamouBrenier(each, steps, tol=tol, max_iter=4000).solve(*rho)
        assert path.lower_bound <= path.cost and path.residual < 1e-14
        found.append((path, exact(each, rho, corners)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ROUND))
def test_one_per_cent_round_corners(name):
    """On meshes graded towards corners, with at most 6000 cells: by extrapolation from the mesh and its refinement."""
    (coarse, _), (fine, distance) = paths(name, 0.15, 16, 2e-3)
    assert fine.mesh.n_cells_global < 6000
    assert (4 * fine.cost - coarse.cost) / 3 == pytest.approx(distance, rel=1e-2)
    assert fine.cost == pytest.approx(distance, rel=2.5e-2)


def test_round_a_corner():
    (coarse, _), (fine, distance) = paths("l_graded", 0.2, 6, 1e-2)
    assert fine.cost < coarse.cost
    assert (4 * fine.cost - coarse.cost) / 3 == pytest.approx(distance, rel=3e-2)
