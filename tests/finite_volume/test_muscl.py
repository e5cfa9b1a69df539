"""The limited reconstruction on any mesh, also on periodic ones, which solvers sweep over."""

import numpy as np
import pytest
from meshes import MESHES
from numpy.testing import assert_allclose

from fvot.finite_volume.muscl import LimitedFaces

pytestmark = pytest.mark.ranks


@pytest.mark.parametrize("name", ["circle", "torus", "channel", "periodic box"])
def test_what_leaves_a_periodic_mesh_comes_in_again(name):
    """A uniform density stays uniform, and a wave keeps its mass."""
    mesh = MESHES[name]()
    scheme = LimitedFaces(mesh, 0.0)
    U = mesh.area * mesh.normal[0]
    U[mesh.n_inner :] = 0  # the walls of the channel are along the flow
    tau = scheme.cfl / mesh.ranks.max(scheme.rate(U))
    velocity = np.zeros((mesh.dim, mesh.n_faces))
    velocity[0] = 1
    nothing = np.zeros(mesh.n_faces - mesh.n_inner)
    for rho0 in np.ones(mesh.n_cells), 2 + mesh.average(lambda x: np.sin(2 * np.pi * x[0])):
        scheme.start(rho0)
        scheme.prepare(U, tau, lambda: velocity)
        rho = rho0
        for number in range(3):
            rho, _ = scheme.step(rho, nothing, number)
        assert_allclose(mesh.integrate(rho), mesh.integrate(rho0), rtol=1e-13)
        if np.ptp(rho0) == 0:
            assert_allclose(rho, 1, atol=1e-13)
