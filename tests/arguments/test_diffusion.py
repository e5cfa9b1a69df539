"""Diffusion coefficients: their shapes, roots and faults, and the drifts of the three noises."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from fvot import InputError
from fvot.arguments.diffusion import (
    as_diffusion_function,
    as_tensors,
    check_noise,
    compute_noise_drift,
    find_faulty_tensor,
    find_smallest_eigenvalues,
    take_root,
)


def points(dim, n=50):
    return np.random.default_rng(dim).uniform(0.2, 1, (dim, n))


def semidefinite(dim, n=40):
    """Random tensors of all ranks from 0 on."""
    factors = np.random.default_rng(dim).standard_normal((dim, dim, n))
    factors *= np.arange(dim)[None, :, None] < np.arange(n) % (dim + 1)
    return np.einsum("ikn,jkn->ijn", factors, factors)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_what_a_function_returns_is_told_by_its_values(dim, n):
    x = points(dim, n)
    eye = np.eye(dim)
    forms = [
        (lambda x: 1 + x[0], ()),
        (lambda x, t: 1 + t * x[0], ()),
        (lambda x: 2.0, ()),
        (lambda x: eye[:, :, None] * x[0], (dim, dim)),
        (lambda x: eye, (dim, dim)),
        (lambda x, t: t * eye, (dim, dim)),
    ]
    if dim > 1:
        forms.append((lambda x: 1 + x, (dim,)))
        forms.append((lambda x: np.ones(dim), (dim,)))
    for f, shape in forms:
        D = as_diffusion_function(f, "diffusion", x, t=0.5)
        assert D.shape == shape
        assert as_tensors(D(x, 0.5), dim).shape == (dim, dim, n)
    for constant in 2.0, np.ones(dim), eye:
        D = as_diffusion_function(constant, "diffusion", x)
        assert (as_tensors(D(x, 0), dim)[0, 0] == np.ravel(constant)[0]).all()


def test_a_function_is_first_called_at_the_given_time():
    with np.errstate(all="raise"):
        D = as_diffusion_function(lambda x, t: np.eye(2) / np.float64(t), "D", points(2), t=2.0)
    assert D.shape == (2, 2)


@pytest.mark.parametrize(
    "D",
    [
        lambda x: [[1 + x[0], 0], [0, 1]],
        [[1, 0], [0]],
        [1.0, 2.0, 3.0],
        np.ones((3, 3)),
        "much",
        None,
    ],
)
def test_what_is_no_diffusion(D):
    with pytest.raises(InputError, match="diffusion"):
        as_diffusion_function(D, "diffusion", points(2))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_roots_of_semidefinite_tensors(dim):
    D = semidefinite(dim) * 10.0 ** np.linspace(-200, 100, 40)
    S = take_root(D)
    assert_allclose(S, S.transpose(1, 0, 2))
    product = np.einsum("ikn,kjn->ijn", S, S)
    size = np.maximum(np.abs(D).max(axis=(0, 1)), 1e-300)
    assert (np.abs(product - D) / size).max() < 1e-14 * dim
    assert (find_smallest_eigenvalues(S) >= -1e-7 * np.sqrt(size)).all()


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_faulty_tensors_are_found(dim):
    D = semidefinite(dim)
    assert find_faulty_tensor(D) is None
    assert find_faulty_tensor(D[:, :, :0]) is None
    eigenvalues = np.linalg.eigvalsh(D.transpose(2, 0, 1))[:, 0]
    assert_allclose(find_smallest_eigenvalues(D), eigenvalues, atol=1e-13)

    lowered = D.copy()
    lowered[:, :, [5, 9]] -= np.eye(dim)[:, :, None] * (eigenvalues[[5, 9]] + 0.25)
    number, problem = find_faulty_tensor(lowered)
    assert number == 5 and problem == "a tensor with the eigenvalue -0.25"

    nowhere = D.copy()
    nowhere[0, 0, 7] = np.nan
    assert find_faulty_tensor(nowhere)[0] == 7
    if dim > 1:
        skew = D.copy()
        skew[0, 1, 11] += 1e-9 * np.abs(D[:, :, 11]).max()
        number, problem = find_faulty_tensor(skew)
        assert number == 11 and problem.startswith("not symmetric, [[")


def test_the_drift_of_noise_that_is_a_number():
    """D = x^2 y^3: ito grad D, stratonovich sqrt(D) grad sqrt(D) = grad D / 2."""
    x = points(2)
    D = as_diffusion_function(lambda x: x[0] ** 2 * x[1] ** 3, "D", x)
    gradient = np.stack([2 * x[0] * x[1] ** 3, 3 * x[0] ** 2 * x[1] ** 2])
    for noise, part in [("kinetic", 0), ("stratonovich", 0.5), ("ito", 1)]:
        c = compute_noise_drift(D, x, 0.0, noise, 1e-5)
        assert_allclose(c, part * gradient, rtol=1e-8)


def test_the_drift_of_noise_that_is_a_diagonal():
    """D_i depends on all coordinates, but c_i on d_i D_i alone; D = 0 has no root with a slope."""
    x = points(3)
    x[0, 0] = 0.0
    D = as_diffusion_function(lambda x: np.stack([x[0] * x[1], x[2] ** 2, x[0] + x[2]]), "D", x)
    slopes = np.stack([x[1], 0 * x[0], 0 * x[0] + 1])
    steps = np.linspace(1e-5, 1e-4, x.shape[1])
    assert_allclose(compute_noise_drift(D, x, 0.0, "ito", steps), slopes, atol=1e-9)
    assert_allclose(compute_noise_drift(D, x, 0.0, "stratonovich", steps), slopes / 2, atol=1e-9)


def test_the_drift_of_noise_that_is_a_tensor():
    """D = S S with S = [[1 + x^2, x y], [x y, 1 + 2 y^2]], by hand:

    div S = (2 x + x, y + 4 y) = (3 x, 5 y) and stratonovich c = S div S,
    D = [[(1 + x^2)^2 + x^2 y^2, x y (2 + x^2 + 2 y^2)], [.., x^2 y^2 + (1 + 2 y^2)^2]], ito c =
    div D = (d_x D_11 + d_y D_12, d_x D_12 + d_y D_22).
    """
    at = points(2)
    x, y = at

    def root(points):
        x, y = points
        return np.array([[1 + x**2, x * y], [x * y, 1 + 2 * y**2]])

    def square(points, t):
        S = root(points)
        return t * np.einsum("ikn,kjn->ijn", S, S)

    D = as_diffusion_function(square, "D", at, 2.0)
    stratonovich = np.stack(
        [(1 + x**2) * 3 * x + x * y * 5 * y, x * y * 3 * x + (1 + 2 * y**2) * 5 * y]
    )
    ito = np.stack(
        [
            4 * x * (1 + x**2) + 2 * x * y**2 + x * (2 + x**2 + 6 * y**2),
            y * (2 + 3 * x**2 + 2 * y**2) + 2 * x**2 * y + 8 * y * (1 + 2 * y**2),
        ]
    )
    assert_allclose(compute_noise_drift(D, at, 2.0, "ito", 1e-5), 2 * ito, rtol=1e-8)
    found = compute_noise_drift(D, at, 2.0, "stratonovich", 1e-5)
    assert_allclose(found, 2 * stratonovich, rtol=1e-8)
    assert (compute_noise_drift(D, at, 2.0, "kinetic", 1e-5) == 0).all()


def test_a_tensor_without_entries_beside_the_diagonal_has_the_drift_of_its_diagonal():
    x = points(3)
    diagonal = as_diffusion_function(lambda x: 1 + x**2, "D", x)
    tensor = as_diffusion_function(lambda x: np.eye(3)[:, :, None] * (1 + x**2), "D", x)
    for noise in "ito", "stratonovich":
        expected = compute_noise_drift(diagonal, x, 0.0, noise, 1e-5)
        assert_allclose(compute_noise_drift(tensor, x, 0.0, noise, 1e-5), expected, rtol=1e-8)


def test_names_of_noises():
    for noise in "kinetic", "ito", "stratonovich":
        check_noise(noise)
    for noise in "Ito", None, 1:
        with pytest.raises(InputError, match="noise must be 'kinetic'"):
            check_noise(noise)
