"""Bad input for solvers: within seconds one message, the same on every rank, that names the thing
and its value. No rank hangs.

Those for meshes, files and densities are in `test_bad_input.py`, for checkpoints in
`test_checkpoint.py`, for series in `test_output.py`; that a program prints the message once is in
`test_run.py`.
"""

import time

import numpy as np
import pytest
from mpi4py import MPI

import fvot
from fvot import (
    JKO,
    BenamouBrenier,
    ContinuityEquation,
    Entropy,
    FokkerPlanck,
    InputError,
    Mesh,
    Potential,
    Power,
)

pytestmark = pytest.mark.ranks

SOON = 5.0  # seconds of the processor


@pytest.fixture(scope="module")
def square():
    return Mesh.rectangle((0, 0), (1, 1), (8, 8))


def last(m, wrong, right):
    """Wrong on the last rank alone."""
    return wrong if m.ranks.rank == m.ranks.size - 1 else right


def apart(m, most, last_one, on_one_rank):
    """Something on most ranks, something else on the last one; what is wrong in itself where there
    is but one.
    """
    return last(m, last_one, most) if m.ranks.size > 1 else on_one_rank


def elsewhere(m, kind):
    """A `Checkpoint` or an `Output` on the last rank alone; what is wrong in itself on one rank."""
    return last(
        m, getattr(fvot, kind)("x.txt" if m.ranks.size > 1 or kind == "Output" else ""), None
    )


def ones(m):
    return np.ones(m.n_cells)


def flow(m, velocity=(1.0, 0.0), **options):
    return ContinuityEquation(
        m, velocity, boundary={"right": fvot.outflow, "left": fvot.outflow}, **options
    )


def spoiled(m, spoil):
    """The upwind flux; on the last rank alone b is spoiled, and only on the faces of the mesh."""

    def flux(U, k):
        a, b = fvot.upwind(U, k)
        return a, last(m, spoil(b), b) if len(U) == m.n_faces else b

    return flux


def diffusion(m, **options):
    return FokkerPlanck(m, **(dict(diffusion=1.0) | options))


def jko(m, energy=None, **options):
    return JKO(m, Entropy() if energy is None else energy, **options)


def bump(m, at=0.3):
    return m.density(lambda x: np.exp(-10 * ((x - at) ** 2).sum(axis=0)))


@pytest.fixture(scope="module")
def compiled(square):
    """Every solver has run once: compiling kernels, which a new clone does, may take longer than
    what is measured here.
    """
    flow(square).solve(ones(square), 0.01)
    diffusion(square).solve(ones(square), 0.01)
    for order in 1, 2:
        jko(square, order=order).solve(bump(square), 0.01, tau=0.01)
    BenamouBrenier(square, n_steps=2, tol=0.1).solve(bump(square), bump(square, 0.5)).at(0.5)


class Linear(fvot.Energy):
    """An energy whose derivative is not that of its value."""

    def value(self, rho, x):
        return rho**2

    def derivative(self, rho, x):
        return 5 * rho

    def curvature(self, rho, x):
        return 5 + 0 * rho


RUNS = {  # what is run, words of the message
    # velocities
    "no velocity": (lambda m: ContinuityEquation(m), ["exactly one", "none of them"]),
    "two velocities": (
        lambda m: ContinuityEquation(m, (1, 0), stream=lambda x: x[0]),
        ["exactly one", "velocity and stream"],
    ),
    "velocity of one component": (lambda m: flow(m, lambda x: x[0]), ["velocity", "(2, "]),
    "velocity transposed": (lambda m: flow(m, lambda x: x.T), ["velocity", "(2, "]),
    "velocity of the wrong shape on one rank": (
        lambda m: flow(m, lambda x: last(m, x[:1], x)),
        ["velocity"],
    ),
    "velocity nan": (lambda m: flow(m, lambda x: x + np.nan), ["velocity", "nan"]),
    "velocity nan on one rank": (
        lambda m: flow(m, lambda x: x + last(m, np.nan, 0)),
        ["velocity", "nan"],
    ),
    "velocity infinite later": (
        lambda m: flow(m, lambda x, t: x + (np.inf if t > 0.3 else 0)).solve(ones(m), 1.0),
        ["velocity", "inf"],
    ),
    "velocity of three arguments": (
        lambda m: flow(m, lambda x, y, t: x),
        ["velocity", "takes 3 parameters"],
    ),
    "velocity of text": (lambda m: flow(m, "east"), ["velocity", "'east'"]),
    "velocity of three components": (
        lambda m: flow(m, (1.0, 0.0, 0.0)),
        ["velocity", "(1.0, 0.0, 0.0)"],
    ),
    "stream of vectors": (lambda m: ContinuityEquation(m, stream=lambda x: x), ["stream"]),
    "face flux of cells": (
        lambda m: ContinuityEquation(m, face_flux=ones(m)),
        ["face_flux", "faces"],
    ),
    "face flux nan": (
        lambda m: ContinuityEquation(m, face_flux=np.full(m.n_faces, np.nan)),
        ["face_flux", "nan"],
    ),
    "velocity too large": (
        lambda m: flow(m, (1e300, 0.0)).solve(ones(m), 1.0),
        ["up to 1e+300", "about 8", "e+300", "earlier end"],
    ),
    "velocity too large for one step": (
        lambda m: flow(m, (1e300, 0.0)).step(ones(m), 1.0),
        ["up to 1e+300", "earlier end"],
    ),
    "velocity too large backwards": (
        lambda m: flow(m, (1e300, 0.0), flux=fvot.upwind).adjoint(ones(m), 1.0),
        ["up to 1e+300", "earlier end"],
    ),
    "velocity too large at first": (
        lambda m: flow(m, lambda x, t: x + 1e300 / (1 + t)).solve(ones(m), 1.0),
        ["1e+300", "earlier"],
    ),
    "velocity that overflows": (
        lambda m: flow(m, (1.7e308, 0.0)).solve(ones(m), 1.0),
        ["1.7e+308", "inf of them"],
    ),
    "velocity too large in the end": (
        lambda m: flow(m, (1.0, 0.0)).solve(ones(m), [0, 1, 1e300]),
        ["of them", "t = 1e+300"],
    ),
    "cfl above 1": (lambda m: flow(m, cfl=1.5), ["cfl", "1.5"]),
    "cfl of text": (lambda m: flow(m, cfl="fast"), ["cfl", "'fast'"]),
    "a flux that is none": (lambda m: flow(m, flux="upwind"), ["flux", "'upwind'"]),
    "a flux of negative coefficients": (
        lambda m: flow(m, flux=fvot.central),
        ["flux 'central'", "negative"],
    ),
    "a flux that is negative on one rank": (
        lambda m: flow(m, flux=spoiled(m, lambda b: b - 5)).solve(ones(m), 1.0),
        ["flux 'flux'", "-5", "negative"],
    ),
    "a flux of the wrong shape on one rank": (
        lambda m: flow(m, flux=spoiled(m, np.sum)).solve(ones(m), 1.0),
        ["flux 'flux'", "()"],
    ),
    # boundaries
    "boundary without that name": (
        lambda m: ContinuityEquation(m, (1, 0), boundary={"inlet": fvot.outflow}),
        ["no part 'inlet'", "left"],
    ),
    "boundary that is no condition": (
        lambda m: ContinuityEquation(m, (1, 0), boundary={"left": 1.0}),
        ["'left'", "1.0"],
    ),
    "boundary as a list": (
        lambda m: ContinuityEquation(m, (1, 0), boundary=["left"]),
        ["dict", "'left'"],
    ),
    "inflow below 0": (
        lambda m: ContinuityEquation(
            m, (1, 0), boundary={"left": fvot.inflow(-1.0), "right": fvot.outflow}
        ),
        ["'left'", "-1"],
    ),
    "inflow nan": (
        lambda m: ContinuityEquation(m, (1, 0), boundary={"left": fvot.inflow(np.nan)}),
        ["'left'", "nan"],
    ),
    "dirichlet below 0 on one rank": (
        lambda m: diffusion(
            m,
            boundary={
                "left": fvot.dirichlet(lambda x: last(m, -1, 1) + 0 * x[0]),
                "right": fvot.dirichlet(lambda x: last(m, -1, 1) + 0 * x[0]),
            },
        ),
        ["'left'"],
    ),
    "rates that do not balance": (
        lambda m: fvot.potential_flow(m, {"left": 1.0, "right": -0.5}),
        ["0.5", "what enters"],
    ),
    "rates of text": (lambda m: fvot.potential_flow(m, {"left": "much"}), ["'left'", "'much'"]),
    # diffusion and drift
    "negative diffusion": (lambda m: diffusion(m, diffusion=-1.0), ["diffusion", "-1"]),
    "no diffusion": (lambda m: diffusion(m, diffusion=0.0), ["diffusion", "0"]),
    "diffusion nan": (lambda m: diffusion(m, diffusion=np.nan), ["diffusion", "nan"]),
    "diffusion negative on one rank": (
        lambda m: diffusion(m, diffusion=lambda x: last(m, -1, 1) + 0 * x[0]),
        ["diffusion", "-1"],
    ),
    "diffusion of the wrong length": (
        lambda m: diffusion(m, diffusion=np.ones(m.n_cells + 1)),
        ["diffusion"],
    ),
    "potential infinite": (
        lambda m: diffusion(m, potential=lambda x: np.where(x[0] < 0.5, np.inf, 0)),
        ["potential", "inf"],
    ),
    "potential of vectors": (lambda m: diffusion(m, potential=lambda x: x), ["potential"]),
    "drift of one number": (lambda m: diffusion(m, drift=1.0), ["drift", "1.0"]),
    "order 4": (lambda m: diffusion(m, order=4), ["order", "4"]),
    "order true": (lambda m: diffusion(m, order=True), ["order", "True"]),
    "tol 0": (lambda m: diffusion(m, tol=0), ["tol", "0"]),
    "rtol 1": (lambda m: diffusion(m, rtol=1.0), ["rtol", "1.0"]),
    "order different on one rank": (
        lambda m: diffusion(m, order=last(m, 1, 2) if m.ranks.size > 1 else 5),
        ["order"],
    ),
    "what is no mesh": (lambda m: FokkerPlanck("mesh.msh", diffusion=1), ["mesh", "'mesh.msh'"]),
    "too many rates": (lambda m: diffusion(m).relaxation_rates(64), ["from 1 to 63", "64"]),
    "rates of another rank": (
        lambda m: diffusion(m).relaxation_rates(apart(m, 1, 2, True)),
        ["k must be"],
    ),
    "rates of one cell": (
        lambda m: diffusion(Mesh.interval(0, 1, 1, comm=MPI.COMM_SELF)).relaxation_rates(),
        ["one cell", "no rate"],
    ),
    "stationary with time": (
        lambda m: diffusion(m, potential=lambda x, t: x[0] * t).stationary(),
        ["depend on time"],
    ),
    # times, steps, starts
    "no time": (lambda m: flow(m).solve(ones(m), None), ["t must be", "None"]),
    "time 0": (lambda m: flow(m).solve(ones(m), 0), ["t must be", "0"]),
    "time infinite": (lambda m: diffusion(m).solve(ones(m), np.inf), ["t must be", "inf"]),
    "time as text": (lambda m: flow(m).solve(ones(m), "1h"), ["t must be", "'1h'"]),
    "times that go back": (
        lambda m: jko(m).solve(ones(m), [0, 2, 1], tau=0.1),
        ["t must be", "[0, 2, 1]"],
    ),
    "times of another rank": (
        lambda m: flow(m).solve(ones(m), last(m, 2.0, 1.0) if m.ranks.size > 1 else -1),
        ["t must be"],
    ),
    "step 0": (lambda m: flow(m).solve(ones(m), 1.0, tau=0), ["tau", "0"]),
    "step too short": (
        lambda m: flow(m).solve(ones(m), 1.0, tau=1e-300),
        ["1e-300", "1e+300 steps", "larger tau"],
    ),
    "step too short to diffuse": (
        lambda m: diffusion(m).solve(ones(m), [0, 1e-3, 2], tau=1e-9),
        ["2e+09 steps", "larger tau"],
    ),
    "step too short to descend": (
        lambda m: jko(m).solve(ones(m), 1.0, tau=1e-300),
        ["1e-300", "1e+300 steps"],
    ),
    "step too short for noise": (
        lambda m: fvot.particles.langevin(np.zeros((1, 3)), (1.0,), 1.0, 1.0, 0, tau=1e-300),
        ["1e-300", "1e+300 steps"],
    ),
    "step nan": (lambda m: diffusion(m).solve(ones(m), 1.0, tau=np.nan), ["tau", "nan"]),
    "step as text": (lambda m: jko(m).solve(ones(m), 1.0, tau="small"), ["tau", "'small'"]),
    "start of all ranks' cells": (
        lambda m: flow(m).solve(np.ones(65), 1.0),
        ["rho0", "(65,)", "mesh.scatter"],
    ),
    "start negative": (
        lambda m: diffusion(m).solve(ones(m) - 2, 1.0),
        ["rho0", "-1", "at least 0"],
    ),
    "start nan on one rank": (
        lambda m: jko(m).solve(ones(m) * last(m, np.nan, 1), 1.0, tau=0.1),
        ["rho0", "nan"],
    ),
    "start complex": (lambda m: flow(m).solve(1j * ones(m), 1.0), ["rho0", "complex"]),
    "start as a list of lists": (lambda m: flow(m).solve([[1], [1, 2]], 1.0), ["rho0"]),
    # gradient flows
    "no energy": (lambda m: JKO(m, None), ["energy", "None"]),
    "power 1": (lambda m: jko(m, Power(1.0)), ["m"]),
    "potential that is no function": (lambda m: jko(m, Entropy() + Potential("V")), ["'V'"]),
    "bounds upside down": (lambda m: jko(m, bounds=(1, 0)), ["bounds", "(1, 0)"]),
    "order 2 with a bound": (lambda m: jko(m, bounds=(0, 2), order=2), ["order"]),
    "a start above its bound": (
        lambda m: jko(m, bounds=(0, 2)).solve(3 * ones(m), 1.0, tau=0.1),
        ["above its bound", "2"],
    ),
    "a mesh that is full": (
        lambda m: jko(m, bounds=(0, 1)).solve(ones(m), 1.0, tau=0.1),
        ["fills the mesh"],
    ),
    "an energy that is wrong": (lambda m: jko(m, Linear()), ["derivative"]),
    "inner of another mesh": (
        lambda m: jko(m, inner=BenamouBrenier(Mesh.interval(0, 1, 8))),
        ["inner"],
    ),
    "inner without tau": (
        lambda m: jko(m, inner=BenamouBrenier(m, n_steps=2)).solve(ones(m), 1.0),
        ["tau"],
    ),
    # transport
    "no steps": (lambda m: BenamouBrenier(m, n_steps=0), ["n_steps", "0"]),
    "half a step": (lambda m: BenamouBrenier(m, n_steps=1.5), ["n_steps", "1.5"]),
    "gap 0": (lambda m: BenamouBrenier(m, tol=0), ["tol", "0"]),
    "precision half": (lambda m: BenamouBrenier(m, precision="half"), ["precision", "'half'"]),
    "one density": (lambda m: BenamouBrenier(m, n_steps=2).solve(ones(m)), ["rho0 and rho1"]),
    "different masses": (
        lambda m: BenamouBrenier(m, n_steps=2).solve(ones(m), 2 * ones(m)),
        ["mass 1", "2"],
    ),
    "no mass": (
        lambda m: BenamouBrenier(m, n_steps=2).solve(0 * ones(m), 0 * ones(m)),
        ["zero everywhere"],
    ),
    "an end nan on one rank": (
        lambda m: BenamouBrenier(m, n_steps=2).solve(bump(m), bump(m) * last(m, np.nan, 1)),
        ["rho1", "nan"],
    ),
    "terminal that is none": (lambda m: BenamouBrenier(m, terminal=1.0), ["terminal", "1.0"]),
    "two ends and a terminal energy": (
        lambda m: BenamouBrenier(m, n_steps=2, terminal=Entropy()).solve(ones(m), ones(m)),
        ["exclude each other"],
    ),
    "a time outside a path": (
        lambda m: BenamouBrenier(m, n_steps=2, tol=0.1).solve(bump(m), bump(m, 0.5)).at(1.5),
        ["1.5"],
    ),
    "an end that one rank does not have": (
        lambda m: BenamouBrenier(m, n_steps=2).solve(bump(m), last(m, None, bump(m))),
        ["needs rho0 and rho1"],
    ),
    # what is given on some ranks only, or not what it should be
    "a checkpoint on other ranks": (
        lambda m: diffusion(m).solve(ones(m), 1.0, checkpoint=elsewhere(m, "Checkpoint")),
        ["checkpoint"],
    ),
    "a checkpoint of transport on other ranks": (
        lambda m: BenamouBrenier(m, n_steps=2).solve(
            bump(m), bump(m, 0.5), checkpoint=elsewhere(m, "Checkpoint")
        ),
        ["checkpoint"],
    ),
    "a series on other ranks": (
        lambda m: flow(m).solve(ones(m), 0.1, write=elsewhere(m, "Output")),
        ["writ"],
    ),
    "a negative time between checkpoints": (
        lambda m: diffusion(m).solve(ones(m), 1.0, checkpoint=fvot.Checkpoint("x.h5", every=-1)),
        ["every", "-1"],
    ),
    "no time between checkpoints on one rank": (
        lambda m: flow(m).solve(
            ones(m), 1.0, checkpoint=fvot.Checkpoint("x.h5", every=last(m, np.nan, 600.0))
        ),
        ["nan"],
    ),
    "checkpoints of words": (
        lambda m: BenamouBrenier(m, n_steps=2).solve(
            bump(m), bump(m, 0.5), checkpoint=fvot.Checkpoint("x.h5", every="a")
        ),
        ["every", "'a'"],
    ),
    "an integral of faces on one rank": (
        lambda m: m.integrate(np.ones(last(m, 7, m.n_cells))),
        ["(7,)", "cells"],
    ),
    "integrals of which one rank has more": (
        lambda m: m.integrate(np.ones(apart(m, (2, m.n_cells), (3, m.n_cells), (3, 7)))),
        ["shape", "3"],
    ),
    "gathered on one rank": (
        lambda m: m.gather(np.ones(last(m, (m.n_cells, 2), m.n_cells))),
        ["2)", "cells"],
    ),
    "the slope of faces": (lambda m: m.gradient(np.ones(last(m, 7, m.n_cells))), ["(7,)", "cells"]),
    "a pressure that is not": (
        lambda m: jko(m).solve(
            bump(m), 0.1, tau=0.1, write=fvot.Output("x.pvd", fields=["pressure"])
        ),
        ["no pressure", "density"],
    ),
    "a velocity that is not": (
        lambda m: diffusion(m).solve(bump(m), 0.1).write("x.pvd", fields=["speed"]),
        ["no speed", "density", "velocity"],
    ),
    "keep of text": (
        lambda m: flow(m).solve(ones(m), 0.1, write=fvot.Output("x.pvd", keep="no")),
        ["keep", "'no'"],
    ),
    "single of numbers": (
        lambda m: flow(m).solve(ones(m), 0.1).write("x.pvd", single=32),
        ["single", "32"],
    ),
    "a cfl of another rank": (lambda m: flow(m, cfl=apart(m, 0.3, 0.5, 2.0)), ["cfl"]),
    "a flux of another rank": (
        lambda m: flow(m, flux=apart(m, fvot.muscl(0.2), fvot.upwind, "upwind")),
        ["upwind"],
    ),
    "sharp of another rank": (
        lambda m: flow(m, flux=apart(m, fvot.muscl(0.2), fvot.muscl(0.3), 0.3)),
        ["0.3"],
    ),
    "a stream on one rank": (
        lambda m: ContinuityEquation(
            m,
            **apart(
                m,
                dict(stream=lambda x: x[0]),
                dict(velocity=(0, 0)),
                dict(stream=lambda x: x[0], velocity=(0, 0)),
            ),
        ),
        ["tream"],
    ),
    "a diffusion of another rank": (
        lambda m: diffusion(m, diffusion=apart(m, 0.1, 0.2, -0.2)),
        ["diffusion", "0.2"],
    ),
    "a mesh of another rank": (lambda m: Mesh.interval(0, 1, apart(m, 20, 21, 0)), ["0"]),
    "a box of another rank": (
        lambda m: Mesh.rectangle((0, 0), (1, apart(m, 1.0, 1.5, -1.0)), (8, 8)),
        ["1"],
    ),
    "periodic by name": (lambda m: Mesh.rectangle(0, 1, (8, 8), periodic="x"), ["periodic", "'x'"]),
    # what comes out
    "points outside": (
        lambda m: flow(m).solve(ones(m), 0.1).velocity_at([[2.0], [0.5]], 0.05),
        ["outside"],
    ),
    "a picture of no suffix": (lambda m: flow(m).solve(ones(m), 0.1).plot("picture"), ["picture"]),
    "a picture of a time that is not": (
        lambda m: flow(m).solve(ones(m), 0.1).plot("x.png", time=7),
        ["7"],
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("run, words", RUNS.values(), ids=RUNS)
def test_bad_runs(run, words, square, compiled, ranks):
    begin = time.process_time()
    with pytest.raises(InputError) as raised:
        run(square)
    assert time.process_time() - begin < SOON
    message = str(raised.value)
    assert message == ranks.broadcast(message), "the ranks say different things"
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"
    assert 20 < len(message) < 500


@pytest.mark.parametrize(
    "run", [lambda m: m.integrate(np.ones(m.n_faces)), lambda m: m.gather(np.ones((m.n_cells, 2)))]
)
def test_what_is_no_array_of_cell_values(run, square, ranks):
    with pytest.raises(InputError, match=f"this rank has {ranks.broadcast(square.n_cells)} cells"):
        run(square)


def test_there_are_many():
    assert len(RUNS) >= 60
