"""The problems of `fokker_planck.py`, `continuity.py` and `corners.py`, as other packages solve
them: one line of JSON.

Run by a Python of their own, which needs neither fvot nor PETSc (`peers.txt` has the versions):

    .venv-peers/bin/python benchmarks/peers.py fipy-krylov 128 100       # Ornstein-Uhlenbeck
    .venv-peers/bin/python benchmarks/peers.py pyclaw 256                # three bodies in rotation
    .venv-peers/bin/python benchmarks/peers.py fipy-vanleer 128 20
    .venv-peers/bin/python benchmarks/peers.py fipy-heat heat.npz 100 euler
"""

import json
import sys
from importlib.metadata import version
from time import process_time

import numpy as np
from scipy.special import erf

HALF, D, T, START, VARIANCE = 7.0, 1.0, 1.0, (1.5, -1.0), 0.25
STEPS = 100  # of implicit Euler; fewer: for their speed alone


def exact(n, t):
    """Cell means (n, n) at time t: V = |x|^2 / 2, a Gaussian that stays one."""
    edges = np.linspace(-HALF, HALF, n + 1)
    width = np.sqrt(2 * (1 + (VARIANCE - 1) * np.exp(-2 * t)))
    x, y = (
        np.diff(erf((edges - mean * np.exp(-t)) / width)) / 2 * (n / (2 * HALF)) for mean in START
    )
    return x[:, None] * y


def measured(work):
    """(result, CPU seconds) of work()."""
    begin = process_time()
    result = work()
    return result, process_time() - begin


def fipy(n, steps, solver):
    """Implicit Euler with the exponential term, whose fluxes are Scharfetter-Gummel's."""
    import fipy as fp

    def setup():
        h = 2 * HALF / n
        mesh = fp.Grid2D(nx=n, ny=n, dx=h, dy=h) + ((-HALF,), (-HALF,))
        rho = fp.CellVariable(mesh=mesh, value=exact(n, 0).T.ravel())
        slope = fp.FaceVariable(
            mesh=mesh, rank=1, value=mesh.faceCenters.value * ~mesh.exteriorFaces.value
        )
        return rho, fp.TransientTerm() == fp.DiffusionTerm(D) + fp.ExponentialConvectionTerm(slope)

    def run():
        for _ in range(steps):
            equation.solve(rho, dt=tau, solver=chosen)

    tau = T / STEPS
    chosen = {
        "krylov": lambda: fp.LinearBicgstabSolver(tolerance=1e-12, iterations=1000),
        "lu": fp.LinearLUSolver,
    }[solver]()
    (rho, equation), made = measured(setup)
    before = rho.value.copy()
    (_, seconds) = measured(run)
    return rho.value.reshape(n, n).T, before.sum(), made, seconds


def pypde(n, steps, _):
    """Central differences and explicit Euler, in about as few steps as stability asks for."""
    import pde

    state = pde.ScalarField(pde.CartesianGrid([[-HALF, HALF]] * 2, [n, n]), exact(n, 0))
    equation = pde.PDE({"c": "laplace(c) + d_dx(x * c) + d_dy(y * c)"}, bc={"derivative": 0})

    def compiled():
        run = pde.EulerSolver(equation, backend="numba").make_stepper(state, T / steps)
        run(state.copy(), 0, T / steps)
        return run

    run, made = measured(compiled)
    after = state.copy()
    _, seconds = measured(lambda: run(after, 0, T))
    return after.data, state.data.sum(), made, seconds


def fplanck(n, *_):
    """Rates from the square root of Boltzmann factors, and the exponential of their matrix."""
    import fplanck as fpl

    if not hasattr(fpl, "fokker_planck"):
        raise SystemExit(f"fplanck {version('fplanck')} has other names: this needs fplanck 0.2.2")

    def setup():
        return fpl.fokker_planck(
            temperature=1 / fpl.k,
            drag=1.0,
            extent=[2 * HALF] * 2,
            resolution=2 * HALF / n,
            boundary=fpl.boundary.reflecting,
            potential=lambda x, y: (x**2 + y**2) / 2,
        )

    problem, made = measured(setup)
    if problem.grid.shape[1:] != (n, n):
        raise SystemExit(f"fplanck made a grid {problem.grid.shape[1:]}, not {(n, n)}")
    start = exact(n, 0)
    density, seconds = measured(lambda: problem.propagate(lambda x, y: start, T, normalize=False))
    return density, start.sum(), made, seconds


# ---- three bodies in rotation --------------------------------------------------------------------


def away(x, y, a, b):
    return np.hypot(x - a, y - b) / 0.15


def bodies(x, y):
    """LeVeque's slotted disk, cone and hump (1996)."""
    disk = (away(x, y, 0.5, 0.75) < 1) & ((abs(x - 0.5) >= 0.025) | (y >= 0.85))
    cone = 1 - away(x, y, 0.5, 0.25)
    hump = 1 + np.cos(np.pi * np.minimum(away(x, y, 0.25, 0.5), 1))
    return disk + np.maximum(cone, 0) + hump / 4


def bump(x, y):
    return np.exp(-((x - 0.5) ** 2 + (y - 0.75) ** 2) / (2 * 0.06**2))


def stream(x, y):
    """psi of one revolution in time 1."""
    return -np.pi * ((x - 0.5) ** 2 + (y - 0.5) ** 2)


def means(f, n):
    """Cell means (n, n) over the unit square, by 8 x 8 points in each cell."""
    fine = (np.arange(8 * n) + 0.5) / (8 * n)
    return f(*np.meshgrid(fine, fine, indexing="ij")).reshape(n, 8, n, 8).mean(axis=(1, 3))


def pyclaw(n):
    """The MC limiter, split by dimensions: one revolution of the bodies (the best time of two), and
    of the bump.
    """
    from clawpack import pyclaw as claw
    from clawpack import riemann

    def revolution(f):
        solver = claw.ClawSolver2D(riemann.vc_advection_2D)
        solver.limiters = claw.limiters.tvd.MC
        solver.dimensional_split = True
        solver.cfl_desired = 0.9
        solver.cfl_max = 1.0
        solver.max_steps = 10**6
        for sides in solver.bc_lower, solver.bc_upper, solver.aux_bc_lower, solver.aux_bc_upper:
            sides[:] = [claw.BC.extrap] * 2
        domain = claw.Domain([0, 0], [1, 1], [n, n])
        state = claw.State(domain, 1, 2)
        x, y = np.meshgrid(np.arange(n) / n, np.arange(n) / n, indexing="ij")
        state.aux[0] = n * (stream(x, y + 1 / n) - stream(x, y))
        state.aux[1] = -n * (stream(x + 1 / n, y) - stream(x, y))
        state.q[0] = start = means(f, n)
        run = claw.Controller()
        run.solution = claw.Solution(state, domain)
        run.solver = solver
        run.tfinal = 1.0
        run.num_output_times = 1
        run.output_format = None
        run.keep_copy = False
        run.verbosity = 0
        _, seconds = measured(run.run)
        return run.solution.state.q[0], start, seconds, solver.status["numsteps"]

    def error(q, start, *_):
        return abs(q - start).sum() / start.sum()

    runs = [revolution(bodies) for _ in range(2)]
    q, start, _, steps = runs[0]
    return dict(
        version=version("clawpack"),
        seconds=min(run[2] for run in runs),
        steps=int(steps),
        error=error(*runs[0]),
        smooth=error(*revolution(bump)),
        mass=q.sum() / start.sum() - 1,
        minimum=q.min(),
        maximum=q.max(),
    )


def fipy_vanleer(n, steps):
    """Explicit steps with Van Leer's limiter, of half a cell: for their speed."""
    import fipy as fp

    mesh = fp.Grid2D(nx=n, ny=n, dx=1 / n, dy=1 / n)
    rho = fp.CellVariable(mesh=mesh, value=means(bodies, n).T.ravel())
    x, y = mesh.faceCenters.value
    velocity = fp.FaceVariable(mesh=mesh, rank=1, value=2 * np.pi * np.stack([0.5 - y, x - 0.5]))
    equation = fp.TransientTerm() + fp.VanLeerConvectionTerm(coeff=velocity) == 0
    tau = 0.5 / n / (np.pi * 2**0.5)

    def run(count):
        for _ in range(count):
            equation.solve(
                rho, dt=tau, solver=fp.LinearBicgstabSolver(tolerance=1e-12, iterations=1000)
            )

    run(1)
    return dict(version=version("fipy"), seconds=measured(lambda: run(steps))[1], steps=steps)


# ---- heat on cells that are not orthogonal -------------------------------------------------------


def fipy_heat(path, steps, how):
    """The heat equation with a tensor on quadrilaterals, from and to cell means of a file."""
    import fipy as fp
    from fipy.meshes.mesh2D import Mesh2D

    data = np.load(path)
    cells = data["cells"]
    D = data["D"].tolist()
    sides = np.stack([cells, np.roll(cells, -1, axis=1)], -1)
    ends, face = np.unique(np.sort(sides.reshape(-1, 2), axis=1), axis=0, return_inverse=True)
    mesh = Mesh2D(data["points"], ends.T, face.reshape(-1, 4).T)
    rho = fp.CellVariable(mesh=mesh, value=data["start"], hasOld=True)
    tau = 0.15 / steps

    def run():
        corrected = how == "corrected"
        term = fp.DiffusionTermCorrection if corrected else fp.DiffusionTermNoCorrection
        if how == "crank-nicolson":
            half = [[entry / 2 for entry in row] for row in D]
            right = term([half]) + fp.ExplicitDiffusionTerm([half])
        else:
            right = term([D])
        equation = fp.TransientTerm() == right
        for _ in range(steps):
            rho.updateOld()
            for _ in range(3 if corrected else 1):
                equation.sweep(rho, dt=tau, solver=fp.LinearLUSolver())

    _, seconds = measured(run)
    volume = mesh.cellVolumes
    return dict(
        version=version("fipy"),
        seconds=seconds,
        error=(np.abs(rho.value - data["end"]) * volume).sum(),
        mass=(rho.value * volume).sum() / (data["start"] * volume).sum() - 1,
    )


# ---- the program ---------------------------------------------------------------------------------


def ornstein_uhlenbeck(name, n, steps):
    package, _, solver = name.partition("-")
    density, before, made, seconds = {"fipy": fipy, "pypde": pypde, "fplanck": fplanck}[package](
        n, steps, solver
    )
    whole = package != "fipy" or steps == STEPS
    error = np.abs(density - exact(n, T)).sum() * (2 * HALF / n) ** 2 if whole else None
    return dict(
        version=version({"pypde": "py-pde"}.get(package, package)),
        made=made,
        seconds=seconds,
        error=error,
        mass=density.sum() / before - 1,
        minimum=density.min(),
    )


def main(name, n, steps=0, how=""):
    if name == "fipy-heat":
        print("result", json.dumps(fipy_heat(n, int(steps), how), default=float))
        return
    n = int(n)
    steps = int(steps)
    if name == "pyclaw":
        found = pyclaw(n)
    elif name == "fipy-vanleer":
        found = fipy_vanleer(n, steps)
    else:
        found = ornstein_uhlenbeck(name, n, steps)
    print("result", json.dumps(found, default=float))


if __name__ == "__main__":
    main(*sys.argv[1:])
