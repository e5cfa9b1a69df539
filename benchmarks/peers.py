"""The Ornstein-Uhlenbeck problem of `fokker_planck.py`, as other packages solve it: one line of JSON.

Run by a Python of their own, which needs neither fvot nor PETSc (`peers.txt` has the versions):

    .venv-peers/bin/python benchmarks/peers.py fipy-krylov 128 100
"""
import json
import sys
from importlib.metadata import version
from time import process_time

import numpy as np
from scipy.special import erf

HALF, D, T, START, VARIANCE = 7.0, 1.0, 1.0, (1.5, -1.0), 0.25
STEPS = 100              # of implicit Euler; fewer: for their speed alone


def exact(n, t):
    """Cell means (n, n) at time t: V = |x|^2 / 2, a Gaussian that stays one."""
    edges, width = np.linspace(-HALF, HALF, n + 1), np.sqrt(2 * (1 + (VARIANCE - 1) * np.exp(-2 * t)))
    x, y = (np.diff(erf((edges - mean * np.exp(-t)) / width)) / 2 * (n / (2 * HALF)) for mean in START)
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
        slope = fp.FaceVariable(mesh=mesh, rank=1, value=mesh.faceCenters.value * ~mesh.exteriorFaces.value)
        return rho, fp.TransientTerm() == fp.DiffusionTerm(D) + fp.ExponentialConvectionTerm(slope)

    def run():
        for _ in range(steps):
            equation.solve(rho, dt=tau, solver=chosen)

    tau, chosen = T / STEPS, {
        "krylov": lambda: fp.LinearBicgstabSolver(tolerance=1e-12, iterations=1000), "lu": fp.LinearLUSolver}[solver]()
    (rho, equation), made = measured(setup)
    before, (_, seconds) = rho.value.copy(), measured(run)
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

    def setup():
        return fpl.fokker_planck(temperature=1 / fpl.k, drag=1.0, extent=[2 * HALF] * 2, resolution=2 * HALF / n,
                                 boundary=fpl.boundary.reflecting, potential=lambda x, y: (x**2 + y**2) / 2)
    problem, made = measured(setup)
    if problem.grid.shape[1:] != (n, n):
        raise SystemExit(f"fplanck made a grid {problem.grid.shape[1:]}, not {(n, n)}")
    start = exact(n, 0)
    density, seconds = measured(lambda: problem.propagate(lambda x, y: start, T, normalize=False))
    return density, start.sum(), made, seconds


def main(name, n, steps=0):
    package, _, solver = name.partition("-")
    n, steps = int(n), int(steps)
    density, before, made, seconds = {"fipy": fipy, "pypde": pypde, "fplanck": fplanck}[package](n, steps, solver)
    whole = package != "fipy" or steps == STEPS
    error = float(np.abs(density - exact(n, T)).sum() * (2 * HALF / n)**2) if whole else None
    print("result", json.dumps(dict(
        version=version({"pypde": "py-pde"}.get(package, package)), made=made, seconds=seconds, error=error,
        mass=float(density.sum() / before - 1), minimum=float(density.min()))))


if __name__ == "__main__":
    main(*sys.argv[1:])
