"""Usual mistakes: a message that names what is meant, and nothing that is wrong without a word."""

import copy
import inspect
import math
import pickle

import numpy as np
import pytest

import fvot
from fvot import FokkerPlanck, InputError, Mesh
from fvot.mesh.numbering import find_numbering
from fvot.mesh.points import is_convex

pytestmark = pytest.mark.ranks
MESH = Mesh.rectangle((0, 0), (1, 1), (6, 6))


def with_potential(V):
    return FokkerPlanck(MESH, diffusion=1.0, potential=V)


# ---- masked arrays -------------------------------------------------------------------------------


def hidden(x):
    """The same numbers with some of them hidden, on every rank."""
    x = np.asarray(x, float)
    mask = np.zeros(x.shape, bool)
    mask[..., 0] = True
    return np.ma.array(x, mask=mask)


ONES = np.ones(MESH.n_cells)
MASKED = {
    "density": lambda: MESH.density(hidden(ONES)),
    "density of a function": lambda: MESH.density(lambda x: hidden(x[0])),
    "picture": lambda: MESH.density(hidden(np.ones((20, 20)))),
    "average": lambda: MESH.average(lambda x: hidden(x)),
    "integrate": lambda: MESH.integrate(hidden(ONES)),
    "gather": lambda: MESH.gather(hidden(ONES)),
    "scatter": lambda: MESH.scatter(hidden(np.ones(36))),
    "deposit": lambda: MESH.deposit([[0.5, 0.2], [0.5, 0.2]], hidden([1.0, 1.0])),
    "points": lambda: MESH.deposit(hidden([[0.5, 0.2], [0.5, 0.2]])),
    "Fokker-Planck": lambda: with_potential(0.0).solve(hidden(ONES), 1.0),
    "a step": lambda: with_potential(0.0).step(hidden(ONES), 1.0),
    "JKO": lambda: fvot.JKO(MESH, fvot.Entropy()).solve(hidden(ONES), 1.0),
    "transport": lambda: fvot.BenamouBrenier(MESH, 4).solve(ONES, hidden(ONES)),
    "continuity": lambda: fvot.ContinuityEquation(MESH, (0.0, 0.0)).solve(hidden(ONES), 1.0),
    "adjoint": lambda: fvot.ContinuityEquation(MESH, (0.0, 0.0), flux=fvot.upwind).adjoint(
        hidden(ONES), 1.0
    ),
    "diffusion": lambda: FokkerPlanck(MESH, diffusion=hidden(ONES)),
    "potential": lambda: with_potential(hidden(ONES)),
    "potential function": lambda: with_potential(lambda x: hidden(x[0])),
    "drift": lambda: FokkerPlanck(MESH, diffusion=1.0, drift=lambda x: hidden(x)),
    "constant drift": lambda: FokkerPlanck(MESH, diffusion=1.0, drift=[1.0, np.ma.masked]),
    "velocity": lambda: fvot.ContinuityEquation(MESH, lambda x: hidden(x)),
    "stream": lambda: fvot.ContinuityEquation(MESH, stream=lambda x: hidden(x[0])),
    "face flux": lambda: fvot.ContinuityEquation(MESH, face_flux=hidden(np.ones(MESH.n_faces))),
    "energy": lambda: fvot.JKO(MESH, fvot.Potential(lambda x: hidden(x[0]))),
    "interaction": lambda: fvot.JKO(MESH, fvot.Interaction(lambda z: hidden((z**2).sum(axis=0)))),
    "times": lambda: with_potential(0.0).solve(ONES, hidden([0, 1, 2])),
    "mesh points": lambda: Mesh.from_cells(
        hidden([[0, 1, 0], [0, 0, 1]]), [("triangle", [[0, 1, 2]])]
    ),
    "static": lambda: fvot.static.wasserstein(
        hidden([0.0, 1.0]), [0.5, 0.5], [0.0, 1.0], [0.5, 0.5]
    ),
    "particles": lambda: fvot.particles.langevin(
        hidden(np.ones((2, 3))), [0, 0], 1.0, t=1.0, seed=1
    ),
    "tangent": lambda: fvot.otto.tangent_potential(MESH, ONES, hidden(ONES)),
}


@pytest.mark.parametrize("name", MASKED)
def test_what_is_hidden_is_no_number(name):
    with pytest.raises(InputError, match=r"masked array, in which \d+ of \d+ .*filled\(0\)"):
        MASKED[name]()


def test_a_mask_that_hides_nothing_is_none():
    bare = np.ma.array(1 + MESH.center[0], mask=False)
    assert (MESH.density(bare) == MESH.density(1 + MESH.center[0])).all()
    assert MESH.integrate(bare) == MESH.integrate(1 + MESH.center[0])
    filled = np.ma.masked_less(MESH.center[0], 0.5).filled(0)
    assert (MESH.density(filled)[MESH.center[0] < 0.5] == 0).all()


@pytest.mark.parametrize(
    "values",
    [
        np.full(MESH.n_cells, "1"),
        np.full(MESH.n_cells, "1", object),
        1j * ONES,
        np.full(MESH.n_cells, None),
        np.full(MESH.n_cells, "2026-01-01", "M8[D]"),
        np.full(MESH.n_cells, np.nan),
    ],
    ids=lambda v: f"{v.dtype}",
)
@pytest.mark.parametrize(
    "use", [MESH.density, lambda u: with_potential(0.0).step(u, 0.1), with_potential]
)
def test_what_are_no_numbers_is_refused(values, use):
    with pytest.raises(InputError):
        use(values)


@pytest.mark.parametrize(
    "values",
    [ONES.astype(np.float32), ONES.astype(int), ONES > 0, list(ONES)],
    ids=["single", "int", "bool", "list"],
)
def test_other_numbers_are_numbers(values):
    found = with_potential(0.0).step(values, 0.1)
    assert np.abs(found - 1).max() < 1e-12 and found.dtype == float
    assert np.abs(MESH.density(values) - 1).max() < 1e-12


# ---- functions -----------------------------------------------------------------------------------

FUNCTIONS = {
    "time first": (lambda t, x: x[0] * t, ["potential", r"x comes first", r"f\(x, t\)"]),
    "time alone": (lambda t: t, ["potential", "x comes first"]),
    "if": (lambda x: 1.0 if x[0] > 0 else 0.0, ["potential failed", r"shape \(2, ", "numpy.where"]),
    "and": (lambda x: 1.0 * (x[0] > 0 and x[0] < 1), ["potential failed", "numpy.where"]),
    "between": (lambda x: 1.0 * (0 < x[0] < 1), [r"\(0 < y\) & \(y < 1\)"]),
    "math": (lambda x: math.sin(x[0]), ["potential failed", r"numpy.sin\(x\[0\]\)"]),
    "float": (lambda x: float(x[1]), ["potential failed", "numpy.sin"]),
    "words": (lambda x: "deep", ["potential", "real numbers"]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_that_do_not_take_all_points_at_once(name):
    f, words = FUNCTIONS[name]
    with pytest.raises(InputError) as caught:
        with_potential(f)
    for word in words:
        assert caught.match(word)


@pytest.mark.parametrize(
    "make, what",
    [
        (lambda f: FokkerPlanck(MESH, diffusion=1.0, drift=f), "drift"),
        (lambda f: FokkerPlanck(MESH, diffusion=f), "diffusion"),
        (lambda f: fvot.ContinuityEquation(MESH, f), "velocity"),
        (lambda f: fvot.ContinuityEquation(MESH, stream=f), "stream"),
        (lambda f: fvot.JKO(MESH, fvot.Potential(f)), "Potential: V"),
        (MESH.density, "the function"),
        (
            lambda f: fvot.ContinuityEquation(
                MESH, (1.0, 0.0), boundary={"left": fvot.inflow(f), "right": fvot.outflow}
            ),
            "'left'",
        ),
    ],
)
def test_the_function_is_named(make, what):
    with pytest.raises(InputError, match=rf"{what} failed for x of shape \(2, \d+\).*numpy.where"):
        make(lambda x: x if x[0] > 0 else -x)


def test_functions_of_too_many_arrays_are_told_of_one():
    with pytest.raises(InputError, match=r"the function failed.*one array of all coordinates"):
        MESH.density(lambda x, y: x * y)


def test_other_failures_stay_what_they_are():
    def broken(x):
        raise KeyError("no such thing")

    with pytest.raises((KeyError, RuntimeError), match="no such thing"):
        with_potential(broken)
    with pytest.raises((IndexError, RuntimeError), match="index 2 is out of bounds"):
        with_potential(lambda x: x[2])


def test_what_is_right_stays_right():
    for V in (lambda x: 3.0, lambda x, t: 0.0, lambda x, time: x[0], lambda y: y[0] * y[1]):
        with_potential(V)


# ---- calls and objects ---------------------------------------------------------------------------

CALLS = {
    "diffusion by place": (
        lambda: FokkerPlanck(MESH, 0.1),
        r"write FokkerPlanck\(mesh, diffusion=0.1\)",
    ),
    "no diffusion": (
        lambda: FokkerPlanck(MESH),
        r"needs diffusion: write FokkerPlanck\(mesh, diffusion=...\)",
    ),
    "a slip": (
        lambda: FokkerPlanck(MESH, difusion=0.1),
        "no argument 'difusion'; is it diffusion=?",
    ),
    "flux by place": (
        lambda: fvot.ContinuityEquation(MESH, (1, 0), fvot.upwind),
        "velocity, stream=",
    ),
    "order by place": (lambda: fvot.JKO(MESH, fvot.Entropy(), 2), r"JKO\(mesh, energy, order=2\)"),
    "no energy": (lambda: fvot.JKO(MESH), "needs energy"),
    "tol by place": (
        lambda: fvot.BenamouBrenier(MESH, 8, 1e-2),
        r"BenamouBrenier\(mesh, n_steps, tol=0.01\)",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_name_the_keyword(name):
    call, words = CALLS[name]
    with pytest.raises(InputError, match=words) as caught:
        call()
    assert isinstance(caught.value, TypeError)


def objects():
    equation = with_potential(0.0)
    rho = MESH.density(lambda x: 1 + x[0])
    return {
        "Mesh": MESH,
        "FokkerPlanck": equation,
        "JKO": fvot.JKO(MESH, fvot.Entropy()),
        "ContinuityEquation": fvot.ContinuityEquation(MESH, (0.0, 0.0)),
        "BenamouBrenier": fvot.BenamouBrenier(MESH, 2),
        "Entropy": fvot.Entropy(),
        "Power": fvot.Power(2),
        "Potential": fvot.Potential(lambda x: x[0]),
        "Interaction": fvot.Interaction(lambda z: (z**2).sum(axis=0)),
        "Sum": fvot.Entropy() + fvot.Power(2),
        "inflow": fvot.inflow(1.0),
        "dirichlet": fvot.dirichlet(0.0),
        "outflow": fvot.outflow,
        "muscl": fvot.muscl(),
        "Result": equation.solve(rho, 0.1),
        "Geodesic": fvot.BenamouBrenier(MESH, 2).solve(rho, rho),
        "Checkpoint": fvot.Checkpoint("run.h5"),
        "Output": fvot.Output("run.pvd"),
    }


OBJECTS = objects()


@pytest.mark.parametrize("name", OBJECTS)
def test_what_is_made_cannot_be_changed(name):
    made = OBJECTS[name]
    public = next(attribute for attribute in [*vars(made), "rho"] if not attribute.startswith("_"))
    before = vars(made).copy()
    for attribute in public, "difusion":
        with pytest.raises(
            AttributeError, match="cannot be changed after it is made; make a new one"
        ):
            setattr(made, attribute, 5)
    with pytest.raises(AttributeError, match="these objects are immutable"):
        delattr(made, public)
    assert vars(made).keys() == before.keys() and all(
        vars(made)[key] is before[key] for key in before
    )


def test_the_message_writes_the_call():
    with pytest.raises(
        AttributeError, match=r"make a new one: FokkerPlanck\(mesh, diffusion=5, ...\)"
    ):
        OBJECTS["FokkerPlanck"].diffusion = 5
    with pytest.raises(
        AttributeError, match=r"no attribute 'difusion' \(is it diffusion\?\).*diffusion=5"
    ):
        OBJECTS["FokkerPlanck"].difusion = 5
    with pytest.raises(AttributeError, match=r"Entropy\(D=2\)"):
        OBJECTS["Entropy"].D = 2


@pytest.mark.parametrize(
    "make",
    [fvot.JKO, fvot.BenamouBrenier, fvot.FokkerPlanck, fvot.ContinuityEquation, fvot.Checkpoint],
)
def test_the_message_of_an_unknown_argument_is_in_sentences(make):
    """Nothing is near to "quux", and every name is near to itself with a letter too many."""
    with pytest.raises(InputError, match=r"has no argument 'quux'\. It takes: "):
        make(quux=1)
    known = list(inspect.signature(make).parameters)[-1]
    with pytest.raises(InputError, match=rf"; is it {known}=\? It takes: "):
        make(**{known + "x": 1})


def test_what_is_kept_for_later_still_is():
    mesh = Mesh.triangles((0, 0), (1, 1), 4)
    assert (
        mesh.walls is mesh.walls
        and is_convex(mesh)
        and find_numbering(mesh) is find_numbering(mesh)
    )
    path = fvot.BenamouBrenier(mesh, 2).solve(
        *[mesh.density(lambda x, s=s: 1 + s * x[0]) for s in (0.0, 0.5)]
    )
    assert path.momentum is path.momentum


def test_copies_and_pickles_are_the_same():
    for name in "Entropy", "Power", "Sum", "inflow", "muscl", "Checkpoint", "Output":
        for other in (
            copy.copy(OBJECTS[name]),
            copy.deepcopy(OBJECTS[name]),
            pickle.loads(pickle.dumps(OBJECTS[name])),
        ):
            assert other == OBJECTS[name] and hash(other) == hash(OBJECTS[name])
            with pytest.raises(AttributeError, match="make a new one"):
                other.anything = 1


def test_a_subclass_has_what_it_adds():
    class Named(FokkerPlanck):
        def __init__(self, mesh, name, **given):
            super().__init__(mesh, **given)
            self.name = name

    assert Named(MESH, "mine", diffusion=1.0).name == "mine"


@pytest.mark.parametrize(
    "make",
    [
        lambda s: Mesh.interval(0, 1, 4, strict=s),
        lambda s: Mesh.rectangle(0, 1, (4, 4), strict=s),
        lambda s: Mesh.box(0, 1, (4, 4, 4), strict=s),
        lambda s: Mesh.triangles(0, 1, 4, strict=s),
        lambda s: Mesh.voronoi(0, 1, 20, strict=s),
        lambda s: Mesh.from_cells(
            [[0, 1, 0, 1.0], [0, 0, 1, 1.0]],
            [("quad", [[0, 1, 3, 2]])],
            strict=s,
            **({"comm": fvot.parallel.MPI.COMM_SELF}),
        ),
    ],
)
@pytest.mark.parametrize("strict", ["no", 0, None])
def test_strict_is_true_or_false(make, strict):
    with pytest.raises(InputError, match="strict must be True or False"):
        make(strict)
    assert make(False).n_cells_global == make(True).n_cells_global
