"""Cells in debt: what `settle` promises for any density, on any mesh and number of ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshes import MESHES
from mpi4py import MPI
from numpy.testing import assert_allclose

from fvot import Mesh
from fvot.finite_volume.settling import settle
from fvot.finite_volume.stencil import Stencil

pytestmark = pytest.mark.ranks


def settled(mesh, rho):
    return settle(mesh, Stencil(mesh), rho)


def of_cells(mesh, values):
    """This rank's part of values (n_cells_global,) by the numbers of the cells."""
    return np.array(values)[mesh.cell_id[: mesh.n_cells]]


@pytest.mark.parametrize("name", ["interval", "torus", "quads", "tiling", "tetrahedra"])
@given(seed=st.integers(0, 10**6), part=st.sampled_from([0.05, 0.3, 0.6]))
def test_promises(name, seed, part):
    """No negative density, and the mass to round-off."""
    mesh = MESHES[name]()
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 1, mesh.n_cells_global) ** 4
    values[rng.random(len(values)) < part] *= -0.2
    rho = of_cells(mesh, values)
    mass = mesh.integrate(rho)
    if mass < 0.05 * mesh.integrate(np.abs(rho)):
        return
    new, was_in_debt = settled(mesh, rho)
    assert was_in_debt == (values.min() < 0)
    assert mesh.ranks.min(new.min()) >= 0
    assert mesh.integrate(new) == pytest.approx(mass, rel=1e-14)


@given(seed=st.integers(0, 10**6))
def test_nothing_happens_without_a_debt(seed):
    """To the last digit."""
    mesh = MESHES["quads"]()
    rho = of_cells(mesh, np.random.default_rng(seed).exponential(size=mesh.n_cells_global))
    new, was_in_debt = settled(mesh, rho)
    assert not was_in_debt and (new == rho).all()


def test_a_debt_of_rounding_is_none():
    mesh = MESHES["quads"]()
    rho = of_cells(mesh, np.where(np.arange(mesh.n_cells_global) == 5, -1e-17, 1.0))
    new, was_in_debt = settled(mesh, rho)
    assert not was_in_debt
    assert (new == np.maximum(rho, 0)).all()


@pytest.mark.parametrize("name", ["interval", "channel", "quads", "tetrahedra"])
def test_the_same_on_any_number_of_ranks(name):
    """But for the rounding of the one factor by which the mass is kept."""
    mesh = MESHES[name]()
    twin = MESHES[name](comm=MPI.COMM_SELF)
    rng = np.random.default_rng(8)
    values = rng.standard_normal(mesh.n_cells_global) + 0.8
    new, _ = settled(mesh, of_cells(mesh, values))
    alone, _ = settled(twin, of_cells(twin, values))
    whole = np.empty(len(values))
    whole[twin.cell_id[: twin.n_cells]] = alone
    assert_allclose(new, of_cells(mesh, whole), rtol=1e-13, atol=1e-15)


def row(*values):
    """(mesh, density) of a row of cells of length 1."""
    mesh = Mesh.interval(0, len(values), len(values))
    return mesh, of_cells(mesh, values)


@pytest.mark.parametrize(
    "before, after",
    [
        ((6.0, -1, 2, 0, 0, 1), (5.25, 0, 1.75, 0, 0, 1)),  # in proportion to what they hold
        ((2.0, -2, 2, -2, 4, 1), (1, 0, 1 / 3, 0, 8 / 3, 1)),  # asked for by both neighbours
        ((1.5, -2, 2, -2, 1.5, 9), (0.5, 0, 0, 0, 0.5, 9)),  # asked for more than it has
        ((7.0, 1, 0, 0, -1, 3), (7, 1, 0, 0, 0, 2)),
    ],
)
def test_who_pays(before, after):
    mesh, rho = row(*before)
    new, was_in_debt = settled(mesh, rho)
    assert was_in_debt
    assert mesh.integrate(new) == pytest.approx(sum(before), rel=1e-15)
    assert_allclose(mesh.gather(new), after, atol=1e-14)


def test_a_debt_among_empty_cells_is_shared():
    """Where no neighbour holds anything, they share the debt, and ask their own neighbours."""
    mesh, rho = row(0.0, 0, 0, -3, 0, 5, 0)
    new, was_in_debt = settled(mesh, rho)
    found = mesh.gather(new)
    assert was_in_debt and found.min() >= 0
    assert mesh.integrate(new) == pytest.approx(2, rel=1e-15)
    assert found[5] == pytest.approx(2, rel=1e-14) and found[[0, 1, 6]].max() == 0


def test_far_cells_keep_what_they_have():
    """A debt that its neighbours can pay changes nobody else."""
    mesh = Mesh.rectangle((0, 0), (1, 1), (12, 12))
    distance = np.abs(mesh.center - np.array([[0.375], [0.625]])).sum(axis=0)
    rho = np.where(distance < 0.01, -0.5, 1 + mesh.center[0])
    new, was_in_debt = settled(mesh, rho)
    assert was_in_debt
    far = distance > 1.5 / 12
    assert_allclose(new[far], rho[far], rtol=1e-14)
    assert (new[(distance > 0.01) & ~far] < rho[(distance > 0.01) & ~far]).all()
