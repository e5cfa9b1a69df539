"""Functions of users, whatever they are made of."""

from functools import partial

import numba
import numpy as np
import pytest
from numpy.testing import assert_allclose

import fvot
from fvot import InputError, Mesh
from fvot.arguments.functions import as_function


@numba.vectorize
def doubled(x):
    return 2 * x


@numba.njit
def grown(x, t):
    return x * t


class Ufunc:
    """As numpy 2.0 to 2.3 have them: the signature says nothing."""

    nin = 1

    def __call__(self, *args, **kwargs):
        return np.cos(*args, **kwargs)


class Scaled:
    """An object with a method."""

    def __call__(self, x, t, scale=3.0):
        return scale * x * t


X = np.linspace(0.1, 2, 7)[None]
KINDS = {
    "ufunc": (np.sin, np.sin(X)),
    "ufunc without a signature": (Ufunc(), np.cos(X)),
    "ufunc of numba": (doubled, 2 * X),
    "ufunc of Python": (np.frompyfunc(lambda x: x + 1, 1, 1), X + 1),
    "ufunc of two numbers": (np.multiply, 5 * X),
    "numba": (grown, 5 * X),
    "numpy.vectorize": (np.vectorize(lambda x: x**2), X**2),
    "numpy.vectorize, of two numbers": (np.vectorize(lambda x, t: x + t), X + 5),
    "partial": (partial(lambda a, x: a * x, 2), 2 * X),
    "object": (Scaled(), 15 * X),
    "keywords": (lambda x, *, power=2: x**power, X**2),
}


@pytest.mark.parametrize("f, expected", KINDS.values(), ids=KINDS)
def test_a_function_is_called_with_what_it_takes(f, expected):
    assert_allclose(as_function(f, "velocity", (1,))(X, 5.0), expected, rtol=1e-14)


@pytest.mark.parametrize(
    "f",
    [lambda x, y, z: x, np.frompyfunc(lambda x, y, z: x, 3, 1), np.vectorize(lambda: 1)],
    ids=["three", "ufunc of three", "none"],
)
def test_functions_of_too_many_arguments_are_refused(f):
    with pytest.raises(InputError, match="takes [03] parameters"):
        as_function(f, "velocity", (1,))


def test_a_solver_takes_ufuncs():
    mesh = Mesh.interval(0, np.pi, 50)
    rho0 = mesh.density(lambda x: 1 + x[0])
    by_ufunc = fvot.ContinuityEquation(mesh, velocity=np.sin).solve(rho0, 0.5)
    by_lambda = fvot.ContinuityEquation(mesh, velocity=lambda x: np.sin(x)).solve(rho0, 0.5)
    assert np.array_equal(by_ufunc.rho, by_lambda.rho)
