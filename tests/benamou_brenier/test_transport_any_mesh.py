"""Optimal transport on meshes that are not made for it: right, or a warning that says how far W2^2
may be off.
"""

import warnings
from contextlib import nullcontext

import numpy as np
import pytest
from brought_meshes import (
    hanging,
    hexahedra,
    irregular_triangles,
    noise,
    quads,
    right_triangles,
    ring,
    swirl,
    waves,
)

from fvot import JKO, BenamouBrenier, Entropy, FokkerPlanck, Mesh, otto
from fvot.parallel import Ranks

pytestmark = pytest.mark.ranks

RANKS = Ranks()


def quantile_cost(first, second):
    """W2^2 of two densities on the line, given by their values at the middles of 10^5 equal
    intervals of [0, 1].
    """
    x = (np.arange(100_000) + 0.5) / 100_000
    levels = (np.arange(50_000) + 0.5) / 50_000
    ends = [np.interp(levels, np.cumsum(u) / u.sum(), x) for u in (first, second)]
    return ((ends[0] - ends[1]) ** 2).mean()


X = (np.arange(100_000) + 0.5) / 100_000
AXES = [
    (1 + 0.7 * np.cos(2 * np.pi * X), 1 - 0.7 * np.cos(2 * np.pi * X)),
    (1 + 0.5 * np.cos(np.pi * X), 1 - 0.6 * np.cos(np.pi * X)),
    (1 + 0.4 * np.cos(np.pi * X), 1 - 0.4 * np.cos(np.pi * X)),
]
# W2^2 of products of densities adds up over the axes.
COSTS = np.cumsum([quantile_cost(*ends) for ends in AXES])


def smooth(mesh):
    """Products of cosines, with W2^2 = COSTS[dim - 1]."""
    x = np.linspace(0, 1, 100_000)
    return [
        mesh.density(
            lambda y, end=end: np.prod(
                [np.interp(part, x, axis[end]) for part, axis in zip(y, AXES)], axis=0
            )
        )
        for end in (0, 1)
    ]


def gaussians(mesh):
    """Two Gaussians far from the walls: W2^2 = .4^2 + .2^2."""
    return [
        mesh.density(lambda x, at=at: np.exp(-60 * ((x - np.reshape(at, (2, 1))) ** 2).sum(axis=0)))
        for at in ((0.3, 0.4), (0.7, 0.6))
    ]


def cost(mesh, ends, n_steps=8, tol=1e-3):
    """W2^2 on a mesh of which a warning may say more, and whether one does."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        path = BenamouBrenier(mesh, n_steps, tol=tol).solve(*ends)
    assert path.lower_bound <= path.cost
    return path.cost, RANKS.max(len([w for w in said if "W2^2 may be off" in str(w.message)]))


@pytest.mark.parametrize(
    "size",
    [pytest.param(size, marks=pytest.mark.long) for size in (0, 1e-5, 1e-4, 1e-2)] + [1e-3, 0.1],
)
def test_squares_that_are_hardly_moved_keep_their_cost(size):
    """Whatever little the points move: as on squares, 0.2017 to 1 %, and without patches that hide
    the bumps.
    """
    mesh = Mesh.from_cells(*quads(16, waves(size / (2 * np.pi))))
    found, _ = cost(mesh, gaussians(mesh))
    assert found == pytest.approx(0.2017, rel=1e-2)


@pytest.mark.parametrize("alternate", [False, True])
def test_right_triangles_are_pairs_that_make_squares(alternate):
    """1 + .8 cos(pi x) goes to 1 - .8 cos(pi x)."""
    mesh = Mesh.from_cells(*right_triangles(16, alternate))
    ends = [mesh.density(lambda x, a=a: 1 + a * np.cos(np.pi * x[0])) for a in (0.8, -0.8)]
    exact = quantile_cost(1 + 0.8 * np.cos(np.pi * X), 1 - 0.8 * np.cos(np.pi * X))
    assert exact == pytest.approx(0.114605, rel=1e-5)
    assert cost(mesh, ends)[0] == pytest.approx(exact, rel=1e-2)


def test_coarse_meshes_of_polygons_have_no_large_patches():
    mesh = Mesh.voronoi((0, 0), (1, 1), 256)
    found, n_warnings = cost(mesh, gaussians(mesh))
    assert found == pytest.approx(0.2018, rel=1e-2) and n_warnings == 0


def test_rings_have_no_large_patches():
    """A radial path, whose quantiles are those of the radius."""
    mesh = Mesh.from_cells(*ring(12, 60))
    ends = [
        mesh.density(lambda x, at=at: np.exp(-20 * (np.hypot(*x) - at) ** 2)) for at in (1.3, 1.7)
    ]
    radius = 1 + X
    exact = quantile_cost(*[radius * np.exp(-20 * (radius - at) ** 2) for at in (1.3, 1.7)])
    found, n_warnings = cost(mesh, ends)
    assert found == pytest.approx(exact, rel=0.02) and n_warnings == 0


BROUGHT = {
    "hanging nodes": lambda: hanging(16),
    "noise": lambda: quads(16, noise(16, 0.3)),
    "little noise": lambda: quads(16, noise(16, 0.001)),
    "waves": lambda: quads(16, waves(0.05)),
    "swirl": lambda: quads(16, swirl(0.05)),
    "irregular": lambda: irregular_triangles(14),
    "hexahedra": lambda: hexahedra(8, 0.25),
}
# Relative error of W2^2 on as many squares or cubes, and some room for cells that are not equal.
RESOLUTION = {2: 0.01, 3: 0.03}


@pytest.mark.parametrize("name", list(BROUGHT))
def test_costs_are_right_within_what_the_mesh_says(name):
    mesh = Mesh.from_cells(*BROUGHT[name](), strict=False)
    quality = mesh.quality
    for ends, exact in [(smooth, COSTS[mesh.dim - 1])] + [(gaussians, 0.2)] * (mesh.dim == 2):
        found, n_warnings = cost(mesh, ends(mesh), n_steps=6)
        assert abs(found / exact - 1) < quality.transport_error + RESOLUTION[mesh.dim] * (
            1 + (ends is gaussians)
        )
        assert n_warnings == (1 if quality.transport_error > 3e-3 else 0)
    assert (quality.transport_error < 3e-3) == (name == "little noise")


def test_every_solver_of_a_skewed_mesh_says_so_once():
    mesh = Mesh.from_cells(*quads(8, waves(0.05)))
    good = Mesh.from_cells(*quads(8))
    rho = mesh.density(lambda x: 1 + x[0] / 2)
    users = {
        "W2.2 may be off by up to": lambda mesh: BenamouBrenier(mesh, 4),
        "diffusion may be off by up to .* does not converge": lambda mesh: FokkerPlanck(
            mesh, diffusion=1.0, scheme="two_point"
        ),
        "diffusion may be off by up to": lambda mesh: JKO(mesh, Entropy(), order=1),
        "Otto's metric may be off by up to": lambda mesh: otto.tangent_potential(
            mesh, rho, rho - 1 / mesh.integrate(1.0), scheme="two_point"
        ),
        "Otto's metric": lambda mesh: otto.length(
            mesh, [0, 0.5, 1], [rho, rho, 1.0 + 0 * rho], scheme="two_point"
        ),
    }
    for words, use in users.items():
        with pytest.warns(UserWarning, match=words) if RANKS.is_root else nullcontext() as said:
            use(mesh)
        assert not RANKS.is_root or len(said) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            use(good)


def test_the_quality_shows_the_patch_test():
    text = str(Mesh.from_cells(*quads(8, waves(0.05))).quality)
    for line in "rms tangent", "patch-test energy", "error of W2^2", "metric":
        assert line in text


def test_warnings_name_the_line_of_the_user():
    mesh = Mesh.from_cells(*quads(8, waves(0.05)))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        FokkerPlanck(mesh, diffusion=1.0, scheme="two_point")
        JKO(mesh, Entropy(), order=1)
        BenamouBrenier(mesh, 4)
        otto.norm(mesh, 1 + 0 * mesh.volume, mesh.center[0], scheme="two_point")
        points, [(kind, cells)] = quads(4)
        Mesh.from_cells(
            np.concatenate([points, points + [[1], [0]]], axis=1),
            [(kind, np.concatenate([cells, cells + 25]))],
        )
    assert {warning.filename for warning in said} <= {__file__}
    assert len(said) == (5 if RANKS.is_root else 0)
