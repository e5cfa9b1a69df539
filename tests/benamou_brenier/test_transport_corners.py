"""Optimal transport round corners: all mass passes through the corner, so W2^2 is known from
distances to it.
"""

from pathlib import Path

import numpy as np
import pytest

from fvot import BenamouBrenier, Mesh

pytestmark = pytest.mark.ranks

MESHES = Path(__file__).parents[2] / "meshes"
# file: start, target, the corner that all ways between them touch (two corners for the slit's tip
# and the door)
ROUND = {
    "l_graded": ((-0.15, -0.6), (0.6, 0.15), [(0.0, 0.0)]),
    "slit": ((0.3, 0.3), (0.7, 0.3), [(0.48, 0.6), (0.52, 0.6)]),
    "rooms_graded": ((0.5, 0.3), (1.6, 0.3), [(1.0, 0.55), (1.1, 0.55)]),
}


@pytest.mark.parametrize(
    "name, measure", [("l_graded", 3), ("slit", 0.976), ("rooms_graded", 2.02)]
)
def test_graded_meshes(name, measure):
    mesh = Mesh.read(MESHES / f"{name}.msh")
    assert mesh.integrate(1.0) == pytest.approx(measure, rel=1e-9)
    assert mesh.ranks.max(mesh.volume.max()) > 50 * mesh.ranks.min(mesh.volume.min())


def bump(mesh, at, width):
    return mesh.density(
        lambda x: np.maximum(1 - ((x - np.reshape(at, (2, 1))) ** 2).sum(axis=0) / width**2, 0) ** 2
    )


def exact(mesh, rho, corners):
    """Cost (r + between + s)^2 of the distances r, s to the corners: far ones on one side go with
    near ones on the other.
    """
    p = (np.arange(100_000) + 0.5) / 100_000
    far = []
    for density, corner in zip(rho, (corners[0], corners[-1])):
        distance = mesh.gather(np.hypot(*(mesh.centroid - np.reshape(corner, (2, 1)))))
        mass = mesh.gather(density * mesh.volume)
        order = np.argsort(distance)
        far.append(np.interp(p, np.cumsum(mass[order]) - mass[order] / 2, distance[order]))
    between = np.hypot(*(np.array(corners[-1]) - corners[0]))
    return ((far[0] + between + far[1][::-1]) ** 2).mean()


def paths(name, width, n_steps, tol):
    """[(path, exact cost)] on the mesh, and with every triangle cut in four and twice as many
    steps.
    """
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
    """On meshes graded towards corners, with at most 6000 cells: by extrapolation from the mesh and
    its refinement.
    """
    (coarse, _), (fine, distance) = paths(name, 0.15, 16, 2e-3)
    assert fine.mesh.n_cells_global < 6000
    assert (4 * fine.cost - coarse.cost) / 3 == pytest.approx(distance, rel=1e-2)
    assert fine.cost == pytest.approx(distance, rel=2.5e-2)


@pytest.mark.slow
def test_narrow_bumps_go_the_geodesic_distance():
    """The squared cost falls to the squared distance as the bumps narrow, and stays above it."""
    start, target, (corner,) = ROUND["l_graded"]
    square = (np.hypot(*np.subtract(start, corner)) + np.hypot(*np.subtract(target, corner))) ** 2
    costs = []
    for width in 0.25, 0.15:
        (coarse, _), (fine, distance) = paths("l_graded", width, 8, 4e-3)
        assert square < distance < (1 + width**2) * square
        costs.append((4 * fine.cost - coarse.cost) / 3)
        assert costs[-1] == pytest.approx(distance, rel=1e-2)
    assert square < costs[1] < costs[0]


@pytest.mark.long
def test_round_a_corner():
    (coarse, _), (fine, distance) = paths("l_graded", 0.2, 8, 6e-3)
    assert fine.cost < coarse.cost
    assert (4 * fine.cost - coarse.cost) / 3 == pytest.approx(distance, rel=1e-2)


@pytest.mark.long
def test_grading_helps():
    """The even mesh has more cells, and the larger error."""
    start, target, corners = ROUND["l_graded"]
    error = []
    n_cells = []
    for name in "l_graded", "l_shape":
        mesh = Mesh.read(MESHES / f"{name}.msh")
        rho = [bump(mesh, at, 0.2) for at in (start, target)]
        path = BenamouBrenier(mesh, 12, tol=5e-3, max_iter=4000).solve(*rho)
        error.append(path.cost / exact(mesh, rho, corners) - 1)
        n_cells.append(mesh.n_cells_global)
    assert n_cells[0] < n_cells[1]
    assert 0 < error[0] < 0.75 * error[1]


def test_all_mass_passes_the_door():
    start, target, (corner, beyond) = ROUND["rooms_graded"]
    mesh = Mesh.read(MESHES / "rooms_graded.msh")
    rho = [bump(mesh, at, 0.2) for at in (start, target)]
    path = BenamouBrenier(mesh, 8, tol=1e-2, max_iter=4000).solve(*rho)
    middle = (corner[0] + beyond[0]) / 2
    right = mesh.with_ghosts(1.0 * (mesh.center[0] > middle))
    n = mesh.n_inner
    through = (right[mesh.right[:n]] - right[mesh.left[:n]]) * mesh.face_owned[
        :n
    ]  # +-1 on the faces between the halves
    tau = np.full(9, 1 / 8)
    tau[[0, -1]] /= 2
    mass = tau @ path.flux[:, :n] * through
    assert mesh.ranks.sum(mass.sum()) == pytest.approx(1, rel=1e-12)
    height = mesh.ranks.sum((mass * mesh.face_center[1, :n]).sum())
    assert corner[1] < height < corner[1] + 0.03  # the door goes on up to corner[1] + 0.2
    assert mesh.integrate(path.at(0.5) * (mesh.center[0] < middle)) == pytest.approx(0.5, abs=0.02)
