"""Cells keep the order in which the user has them, on one rank; on several, mesh.scatter deals
whole arrays out.
"""

import numpy as np
import pytest
from meshes import MESHES

import fvot
from fvot import Mesh
from fvot.parallel import Ranks

pytestmark = pytest.mark.ranks
SIZE = Ranks().size


def shuffled(n=12, seed=4):
    """(points, triangles (n_cells, 3)) of a square, in no order."""
    mesh = Mesh.triangles((0, 0), (1, 1), n, comm=fvot.parallel.MPI.COMM_SELF)
    triangles = mesh.corners.reshape(-1, 3)
    return mesh.points, triangles[np.random.default_rng(seed).permutation(len(triangles))]


def areas(points, triangles):
    a, b, c = (points[:, triangles[:, i]] for i in range(3))
    return ((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])) / 2


POINTS, TRIANGLES = shuffled()


@pytest.fixture
def mesh():
    return Mesh.from_cells(POINTS, [("triangle", TRIANGLES)], boundary=sides())


def sides():
    """The four sides of the square, as points of its edges."""
    edges = np.concatenate([TRIANGLES[:, [i, (i + 1) % 3]] for i in range(3)]).T
    x = POINTS[:, edges]
    on = {"left": x[0] == 0, "right": x[0] == 1, "bottom": x[1] == 0, "top": x[1] == 1}
    return {name: edges[:, both.all(axis=0)] for name, both in on.items()}


@pytest.mark.parametrize("name", MESHES)
def test_on_one_rank_cells_are_in_the_files_order(name, ranks):
    mesh = MESHES[name]()
    if ranks.size == 1:
        assert (mesh.cell_id[: mesh.n_cells] == np.arange(mesh.n_cells)).all()
        assert (mesh.scatter(mesh.center) == mesh.center).all()
    assert (mesh.gather(mesh.cell_id[: mesh.n_cells]) == np.arange(mesh.n_cells_global)).all()


def test_geometry_is_that_of_the_users_cells(mesh):
    assert np.allclose(mesh.gather(mesh.volume), areas(POINTS, TRIANGLES), rtol=1e-13)
    assert np.allclose(mesh.gather(mesh.centroid), POINTS[:, TRIANGLES].mean(axis=2), rtol=1e-13)
    values = POINTS[0, TRIANGLES].mean(axis=1)
    rho = mesh.density(mesh.scatter(values))
    mean = (areas(POINTS, TRIANGLES) * values**2).sum() / (areas(POINTS, TRIANGLES) * values).sum()
    assert abs(mesh.integrate(rho * mesh.centroid[0]) - mean) < 1e-13


def test_children_of_cell_k_are_the_next_four(mesh):
    finer = mesh.refine()
    parents = np.arange(finer.n_cells_global) // 4
    assert np.allclose(
        finer.gather(finer.volume), mesh.gather(mesh.volume)[parents] / 4, rtol=1e-12
    )
    if SIZE == 1:
        assert (finer.cell_id == np.arange(finer.n_cells)).all()


@pytest.mark.parametrize("suffix", [".vtu", ".msh"])
def test_files_are_read_in_their_order(suffix, shared_folder, ranks):
    import meshio

    path = shared_folder / f"shuffled{suffix}"
    if ranks.is_root:
        points = np.concatenate([POINTS, 0 * POINTS[:1]]).T
        meshio.Mesh(points, [("triangle", TRIANGLES)]).write(
            path, **({"file_format": "gmsh22"} if suffix == ".msh" else {})
        )
    ranks.wait()
    mesh = Mesh.read(path)
    assert np.allclose(mesh.gather(mesh.volume), areas(POINTS, TRIANGLES), rtol=1e-12)


def sorted_mesh():
    """The same mesh with its cells by place, and the number in it of each of the shuffled cells."""
    order = np.lexsort(POINTS[:, TRIANGLES].mean(axis=2).round(9))
    place = np.argsort(order)
    return Mesh.from_cells(POINTS, [("triangle", TRIANGLES[order])], boundary=sides()), place


def potential(x):
    return 3 * (x[0] - 0.4) ** 2 + x[0] * x[1]


def blob(x):
    return np.exp(-20 * ((x[0] - 0.3) ** 2 + (x[1] - 0.6) ** 2))


def other_blob(x):
    return np.exp(-20 * ((x[0] - 0.6) ** 2 + (x[1] - 0.4) ** 2))


def continuity(flux):
    def run(mesh):
        equation = fvot.ContinuityEquation(
            mesh,
            lambda x, t: np.stack([1 + t + 0 * x[0], -x[0]]),
            flux=flux,
            boundary={
                "left": fvot.inflow(1.0),
                "right": fvot.outflow,
                "bottom": fvot.outflow,
                "top": fvot.inflow(0.5),
            },
        )
        result = equation.solve(mesh.density(blob), [0, 0.1])
        return [*result.rho, *result.velocity[-1], equation.step(mesh.density(blob), 0.05)]

    return run


def adjoint(mesh):
    equation = fvot.ContinuityEquation(
        mesh,
        stream=lambda x: x.prod(axis=0),
        flux=fvot.upwind,
        boundary=dict.fromkeys(["left", "right", "bottom", "top"], fvot.outflow),
    )
    return [equation.adjoint(mesh.average(blob), [0, 0.1])]


def fokker_planck(mesh):
    V, D = potential(mesh.center), 0.1 + 0.1 * mesh.center[0]
    found = []
    for given in (
        V,
        lambda x: V,
        lambda x: potential(x),
    ):  # a function may know the cells that it is asked for
        equation = fvot.FokkerPlanck(mesh, diffusion=D, potential=given)
        result = equation.solve(mesh.density(blob), [0, 0.01], tau=0.005)
        found += [
            *result.rho,
            equation.stationary(),
            *equation.current(result.rho[-1]),
            equation.step(result.rho[-1], 0.01),
        ]
    driven = fvot.FokkerPlanck(
        mesh,
        diffusion=0.1,
        drift=lambda x: np.stack([1 + 0 * x[0], -x[0]]),
        boundary={"left": fvot.dirichlet(1.0), "right": fvot.outflow},
    )
    return [*found, driven.stationary()]


def jko(mesh):
    energy = (
        0.1 * fvot.Entropy()
        + fvot.Potential(potential)
        + 0.1 * fvot.Interaction(lambda z: (z**2).sum(axis=0))
    )
    result = fvot.JKO(mesh, energy).solve(mesh.density(blob), [0, 0.01], tau=0.005)
    crowd = fvot.JKO(mesh, fvot.Potential(potential), bounds=(0, 3.0)).solve(
        mesh.scatter(np.minimum(mesh.gather(mesh.density(blob)), 2.0)), 0.01, tau=0.005
    )
    return [*result.rho, *crowd.rho, crowd.pressure[-1]]


RUNS = {
    "upwind": continuity(fvot.upwind),
    "muscl": continuity(fvot.muscl()),
    "adjoint": adjoint,
    "JKO": jko,
    "Fokker-Planck": fokker_planck,
}


@pytest.mark.parametrize("name", RUNS)
def test_results_do_not_depend_on_the_order(name, mesh):
    other, place = sorted_mesh()
    mine, theirs = (np.stack([m.gather(u) for u in RUNS[name](m)]) for m in (mesh, other))
    assert np.abs(mine - theirs[:, place]).max() < 1e-7 * np.abs(mine).max()


@pytest.mark.long
def test_paths_do_not_depend_on_the_order():
    """With single cells as patches: pairs are others in another order."""
    other, place = sorted_mesh()
    meshes = [
        Mesh.from_cells(POINTS, [("triangle", t)], patches="none")
        for t in (TRIANGLES, other_triangles(place))
    ]
    paths = [
        fvot.BenamouBrenier(m, 4, tol=1e-5).solve(m.density(blob), m.density(other_blob))
        for m in meshes
    ]
    mine, theirs = (m.gather(path.rho) for m, path in zip(meshes, paths, strict=True))
    assert abs(paths[0].cost - paths[1].cost) < 2e-5 * paths[0].cost
    assert np.abs(mine - theirs[:, place]).max() < 0.02 * np.abs(mine).max()
    for mesh, path in zip(meshes, paths, strict=True):
        residual = (
            mesh.volume * (path.rho[1] - path.rho[0])
            + mesh.volume * mesh.divergence(path.flux[0]) / 8
        )
        assert np.abs(residual).max() < 1e-12
        steps = path.velocity[2] * path.rho[2]
        assert mesh.integrate(steps[0]) > 0 > mesh.integrate(steps[1])


def other_triangles(place):
    return TRIANGLES[np.argsort(place)]


def test_series_have_the_files_order(mesh, shared_folder, ranks):
    equation = fvot.FokkerPlanck(mesh, diffusion=0.1, potential=potential)
    result = equation.solve(
        mesh.density(blob), [0, 0.01], write=str(shared_folder / "on_the_way.pvd")
    )
    result.write(shared_folder / "after.pvd")
    ranks.wait()
    if ranks.size > 1:
        return
    import pyvista

    for name in "on_the_way", "after":
        grid = pyvista.read(sorted((shared_folder / name).rglob("*.vtu"))[-1])
        assert (grid.cell_data["cell"] == np.arange(mesh.n_cells)).all()
        assert np.allclose(grid.cell_data["density"], result.rho[-1], rtol=1e-14)
        assert np.allclose(grid.cell_centers().points[:, :2].T, mesh.centroid, atol=1e-6)


def test_a_checkpoint_goes_on(mesh, shared_folder):
    """From cell values in the file's numbering, whatever the order of the kernels."""
    rho0 = mesh.density(blob)
    path = shared_folder / "run.h5"
    equation = fvot.ContinuityEquation(mesh, stream=lambda x: (x * (1 - x)).prod(axis=0))
    whole = equation.solve(rho0, [0, 0.1, 0.2])
    equation.solve(rho0, [0, 0.1], checkpoint=fvot.Checkpoint(path))
    rest = equation.solve(rho0, [0, 0.1, 0.2], checkpoint=fvot.Checkpoint(path))
    assert np.abs(rest.rho - whole.rho).max() < 1e-13 * whole.rho.max()


WHOLE = {
    "density": lambda m, u: m.density(u),
    "rho0": lambda m, u: fvot.FokkerPlanck(m, diffusion=1.0).solve(u, 0.1),
    "integrate": lambda m, u: m.integrate(u),
    "diffusion": lambda m, u: fvot.FokkerPlanck(m, diffusion=u),
    "a function": lambda m, u: fvot.FokkerPlanck(m, diffusion=1.0, potential=lambda x: u).step(
        0 * m.volume, 0.1
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_on_several_ranks_whole_arrays_are_told_to_scatter(name, mesh, ranks):
    u = 1 + POINTS[0, TRIANGLES].mean(axis=1)
    if ranks.size == 1:
        WHOLE[name](mesh, u)
        return
    with pytest.raises(fvot.InputError, match="scatter"):
        WHOLE[name](mesh, u)


@pytest.mark.parametrize("name", WHOLE)
def test_other_lengths_say_which_is_wanted(name, mesh):
    counts = mesh.ranks.all_gather(np.array([mesh.n_cells]))  # all ranks say what one of them finds
    with pytest.raises(fvot.InputError, match="|".join(map(str, counts))):
        WHOLE[name](mesh, np.ones(mesh.n_cells + 3))
