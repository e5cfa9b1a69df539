"""Meshes, equations and results that are copied and pickled: whole and frozen on one rank, refused
on several.
"""

import copy
import pickle

import numpy as np
import pytest
from meshes import MESHES
from mpi4py import MPI

import fvot
from fvot import InputError, Mesh

pytestmark = pytest.mark.ranks

COPIES = {"pickle": lambda made: pickle.loads(pickle.dumps(made)), "deepcopy": copy.deepcopy}


def eddy(x):
    return np.prod(np.sin(np.pi * x), axis=0)


def made_on(mesh):
    """A mesh, a `Result` and a `Geodesic` on it."""
    rho = [mesh.density(lambda x, sign=sign: np.exp(sign * x[0])) for sign in (-0.3, 0.3)]
    return (
        mesh,
        fvot.FokkerPlanck(mesh, diffusion=0.1).solve(rho[0], 0.1, tau=0.05),
        fvot.BenamouBrenier(mesh, n_steps=2, tol=0.5).solve(*rho),
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("kind", ["rectangle", "triangles", "honeycomb", "tetrahedra", "interval"])
def test_copies_on_one_rank(kind, copied):
    mesh, result, path = made_on(MESHES[kind](comm=MPI.COMM_SELF))
    other = copied(mesh)
    same = copied(result)
    way = copied(path)
    assert (same.rho == result.rho).all() and (way.rho == path.rho).all() and way.gap == path.gap
    # Where arrays lie in memory may change the order of a sum.
    mass = same.mesh.integrate(same.rho[-1])
    assert mass == pytest.approx(result.ledger["mass"][-1], rel=1e-14)
    again = fvot.FokkerPlanck(other, diffusion=0.1).solve(result.rho[0], 0.1, tau=0.05)
    assert (again.rho == result.rho).all()
    for made, name in (other, "volume"), (same, "rho"), (way, "cost"):
        with pytest.raises(AttributeError):
            setattr(made, name, None)
    with pytest.raises(ValueError, match="read-only"):
        other.volume[0] = 1.0
    if kind != "honeycomb":
        assert other.refine().n_cells == mesh.refine().n_cells


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies_on_several_ranks_are_refused(copied, ranks):
    if ranks.size == 1:
        pytest.skip("needs several ranks")
    for made in made_on(Mesh.rectangle((0, 0), (1, 1), (6, 6))):
        with pytest.raises(
            InputError, match=f"shared by {ranks.size} ranks cannot be copied or pickled: write"
        ):
            copied(made)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_result_whose_velocity_was_looked_up_can_be_copied(copied):
    mesh = Mesh.rectangle((0, 0), (1, 1), (4, 4), periodic=True, comm=MPI.COMM_SELF)
    rho0 = mesh.density(lambda x: 1 + 0.1 * np.sin(2 * np.pi * x[0]))
    result = fvot.ContinuityEquation(
        mesh, lambda x, t: np.stack([1 + t + 0 * x[0], x[1] ** 2])
    ).solve(rho0, [0.0, 0.1, 0.2])
    points = np.array([[0.3, 0.8], [0.2, 0.6]])
    v = result.velocity_at(points, 0.15)
    assert (copied(result).velocity_at(points, 0.15) == v).all()


def test_a_copy_has_the_velocity_and_not_the_functions_that_it_comes_from():
    mesh = Mesh.interval(0, 1, 8, comm=MPI.COMM_SELF)
    equation = fvot.FokkerPlanck(mesh, diffusion=lambda x: 1 + x[0])
    result = equation.solve(mesh.density(lambda x: 1 + x[0]), [0.0, 0.1])
    copied = pickle.loads(pickle.dumps(result))
    assert (copied.velocity == result.velocity).all() and np.abs(copied.velocity[0]).max() > 0.1
    assert list(copied.fields) == ["density", "velocity"]
    assert copied.ledger.keys() == result.ledger.keys()
    assert copied._repr_html_() == result._repr_html_()


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_equations_are_copied_by_their_arguments(copied):
    """Also after a solve, when they hold matrices."""
    mesh = Mesh.triangles((0, 0), (1, 1), 5, comm=MPI.COMM_SELF)
    rho0 = mesh.density(lambda x: 1 + x[0])
    rho1 = mesh.density(lambda x: 2 - x[0])
    for equation in (
        fvot.FokkerPlanck(mesh, diffusion=0.1, potential=mesh.center[0], order=3),
        fvot.JKO(mesh, fvot.Power(2) + fvot.Entropy(0.1), order=1),
        fvot.ContinuityEquation(mesh, stream=eddy, flux=fvot.muscl(sharp=0.3)),
    ):
        result = equation.solve(rho0, [0.0, 0.1])
        other = copied(equation)
        assert type(other) is type(equation) and repr(other) == repr(equation)
        np.testing.assert_allclose(other.solve(rho0, [0.0, 0.1]).rho, result.rho, rtol=1e-12)
        with pytest.raises(AttributeError, match="cannot be changed"):
            other.mesh = mesh
    transport = fvot.BenamouBrenier(mesh, n_steps=4, tol=0.1)
    path = transport.solve(rho0, rho1)
    assert copied(transport).solve(rho0, rho1).cost == pytest.approx(path.cost, rel=1e-10)
