"""Intervals, rectangles and boxes between given edges."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from fvot import BenamouBrenier, ContinuityEquation, FokkerPlanck, InputError, Mesh, inflow, outflow

pytestmark = pytest.mark.ranks

GRADED = np.linspace(0, 1, 9) ** 2
MAKERS = {1: Mesh.interval, 2: Mesh.rectangle, 3: Mesh.box}
SIDES = ["left", "right", "front", "back", "bottom", "top"]
AXES = [GRADED, np.array([0, 0.5, 0.6, 2.0]), np.array([-1, 0, 3.0])]


def make(dim, **options):
    """A mesh between the first *dim* of the axes."""
    return MAKERS[dim](edges=AXES[0] if dim == 1 else AXES[:dim], **options)


@pytest.mark.parametrize("dim", MAKERS)
def test_cells_lie_between_edges_in_c_order(dim):
    mesh = make(dim)
    shape = [len(axis) - 1 for axis in AXES[:dim]]
    widths = np.meshgrid(*[np.diff(axis) for axis in AXES[:dim]], indexing="ij")
    middles = np.meshgrid(*[(axis[1:] + axis[:-1]) / 2 for axis in AXES[:dim]], indexing="ij")
    assert_allclose(mesh.gather(mesh.volume).reshape(shape), np.prod(widths, axis=0), rtol=1e-13)
    for axis in range(dim):
        assert_allclose(mesh.gather(mesh.center[axis]).reshape(shape), middles[axis], rtol=1e-12)
    names = SIDES[:2] if dim == 1 else SIDES[:2] + SIDES[4:] if dim == 2 else SIDES
    assert set(mesh.boundary) == set(names)
    for name, axis, end in zip(names, np.repeat(range(dim), 2), [0, -1] * dim):
        assert_allclose(mesh.face_center[axis, mesh.boundary[name]], AXES[axis][end])
    assert mesh.quality.orthogonality_defect < 1e-12


@pytest.mark.parametrize("dim", MAKERS)
def test_equal_edges_make_the_equal_cells(dim):
    """The mesh of a shape, but for the order of its faces; and the same densities."""
    shape = (6, 5, 4)[:dim]
    edges = [np.linspace(0, 1, n + 1) for n in shape]
    by_edges = MAKERS[dim](edges=edges[0] if dim == 1 else edges)
    by_shape = (
        MAKERS[dim](0, 1, shape[0]) if dim == 1 else MAKERS[dim]((0,) * dim, (1,) * dim, shape)
    )
    assert_allclose(by_edges.gather(by_edges.center), by_shape.gather(by_shape.center), atol=1e-14)
    densities = []
    for mesh in (by_edges, by_shape):
        rho0 = mesh.density(lambda x: 1 + x[0])
        rho = FokkerPlanck(mesh, diffusion=0.1).solve(rho0, 0.1, tau=0.05).rho[-1]
        densities.append(mesh.gather(rho))
    assert_allclose(*densities, rtol=1e-8)


def test_solvers_run_between_edges():
    """Ninefold cells at a wall: mass to round-off, a front in its place, a certified distance."""
    mesh = Mesh.rectangle(edges=[GRADED, np.linspace(0, 1, 7)])
    flow = ContinuityEquation(
        mesh, velocity=(1.0, 0.0), boundary={"left": inflow(1.0), "right": outflow}
    )
    result = flow.solve(0 * mesh.volume, [0, 0.5])
    assert abs(result.ledger["mass_error"]).max() < 1e-14
    assert result.ledger["mass"][-1] == pytest.approx(0.5, rel=1e-12)
    ends = [mesh.density(lambda x, s=s: 1 + s * np.cos(np.pi * x[0])) for s in (0.5, -0.5)]
    path = BenamouBrenier(mesh, 4).solve(*ends)
    assert path.lower_bound <= path.cost and path.gap < 1e-3


def test_thin_layers_at_a_wall_resolve_a_boundary_layer():
    """The mean distance of exp(-x / D) from the wall, D, on 32 graded cells and on 32 equal ones.
    (Measured: 4e-3 and 0.2.)
    """
    errors = []
    for mesh in (Mesh.interval(edges=np.linspace(0, 1, 33) ** 3), Mesh.interval(0, 1, 32)):
        rho = FokkerPlanck(mesh, diffusion=0.02, drift=(-1.0,)).stationary()
        errors.append(abs(mesh.integrate(rho * mesh.center[0]) / 0.02 - 1))
    assert errors[0] < errors[1] / 20


def test_bad_edges_are_refused():
    for wrong, message in (
        (lambda: Mesh.interval(edges=[0, 1, 1]), "along x must be finite, and each above"),
        (lambda: Mesh.interval(edges=[0.0]), "at least two numbers"),
        (lambda: Mesh.interval(edges=[0, np.nan]), "finite"),
        (lambda: Mesh.interval(0, 1, 3, edges=[0, 1]), "give no ends"),
        (lambda: Mesh.interval(), "or edges="),
        (lambda: Mesh.rectangle((0, 0), (1, 1)), "or edges="),
        (lambda: Mesh.rectangle(edges=[0, 1, 2]), "edges must be 2 arrays"),
        (lambda: Mesh.rectangle(edges=[[0, 1], "ab"]), "edges along y"),
        (lambda: Mesh.rectangle(edges=[[0, 1], [0, 1]], periodic=True), "walls"),
        (lambda: Mesh.box(edges=5), "edges must be 3 arrays"),
    ):
        with pytest.raises(InputError, match=message):
            wrong()
    mesh = make(2)
    assert_array_equal(mesh.refine().n_cells_global, 4 * mesh.n_cells_global)
