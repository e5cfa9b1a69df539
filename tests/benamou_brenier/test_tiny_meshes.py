"""Transport on a few oblique cells, from one of them to another one."""

import numpy as np
import pytest

from fvot import BenamouBrenier, Entropy, Mesh, Power


def two_tetrahedra():
    """Two tetrahedra that share a face."""
    points = np.array([[0, 0, 0], [1, 0, 0], [0.3, 1, 0], [0.4, 0.4, 1], [0.4, 0.3, -1.3]])
    return Mesh.from_cells(points.T, [("tetra", np.array([[0, 1, 2, 3], [0, 2, 1, 4]]))])


def oblique_strip(n, height=1.0, lean=0.5):
    """A row of n parallelograms."""
    x = np.arange(n + 1.0)
    below = np.stack([x, 0 * x])
    above = np.stack([x + lean, height + 0 * x])
    left = np.arange(n)
    corners = [left, left + 1, left + n + 2, left + n + 1]
    points = np.concatenate([below, above], axis=1)
    return Mesh.from_cells(points, [("quad", np.stack(corners, axis=1))])


def oblique_row(n):
    """A row of n oblique parallelepipeds."""
    x, y, z = np.meshgrid(np.arange(n + 1.0), [0, 1.0], [0, 1.0], indexing="ij")
    points = np.stack([x + 0.4 * y + 0.3 * z, y + 0.2 * z, z]).reshape(3, -1)
    first = 4 * np.arange(n)[:, None]
    corners = first + [0, 4, 6, 2, 1, 5, 7, 3]
    return Mesh.from_cells(points, [("hexahedron", corners)])


MAKERS = {
    "tetrahedra": two_tetrahedra,
    **{f"{n} parallelograms": lambda n=n: oblique_strip(n) for n in (2, 3, 4, 20)},
    **{f"{n} parallelepipeds": lambda n=n: oblique_row(n) for n in (2, 3, 4)},
}


@pytest.mark.parametrize("n_steps", [1, 2, 5])
@pytest.mark.parametrize("name", MAKERS)
def test_all_mass_moves_from_the_first_cell_to_the_last(name, n_steps, recwarn):
    mesh = MAKERS[name]()
    ends = [np.zeros(mesh.n_cells), np.zeros(mesh.n_cells)]
    ends[0][0] = 1 / mesh.volume[0]
    ends[1][-1] = 1 / mesh.volume[-1]
    solver = BenamouBrenier(mesh, n_steps, scheme="corners")
    for rho0, rho1 in ends, ends[::-1]:
        path = solver.solve(rho0, rho1)
        assert path.gap <= 1e-3
        assert path.residual < 1e-12
    assert not recwarn.list


@pytest.mark.parametrize("n_steps", [1, 5])
@pytest.mark.parametrize("energy", [Power(2), Entropy()], ids=["power", "entropy"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_few_thin_cells_have_free_ends(n, energy, n_steps):
    """Fifty times longer than high: multigrid would hardly converge there."""
    mesh = oblique_strip(n, height=0.02, lean=0.05)
    rho0 = np.zeros(n)
    rho0[0] = 1 / mesh.volume[0]
    path = BenamouBrenier(mesh, n_steps, terminal=energy, scheme="corners").solve(rho0)
    assert path.gap <= 1e-3
