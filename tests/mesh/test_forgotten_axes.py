"""Functions that return one number for all points, by mistake or on purpose."""

import numpy as np
import pytest

from fvot import FokkerPlanck, InputError, Mesh

pytestmark = pytest.mark.ranks

MESH = Mesh.rectangle((0, 0), (1, 1), (12, 12))


@pytest.mark.parametrize(
    "make",
    [
        lambda: FokkerPlanck(MESH, diffusion=0.1, potential=lambda x: 10 * np.linalg.norm(x)),
        lambda: FokkerPlanck(MESH, diffusion=0.1, potential=lambda x, t: t + (x**2).sum()).step(
            MESH.volume, 0.1
        ),
        lambda: MESH.density(lambda x: np.exp(-np.sum(x**2) / 100)),
    ],
)
def test_sums_over_all_points_are_refused(make):
    with pytest.raises(InputError, match="axis=0"):
        make()


def test_constants_and_all_sorts_of_callables_are_taken():
    def decorated(*args, **kwargs):
        return args[0][0] ** 2

    assert MESH.density(lambda x: 3.0) == pytest.approx(1)
    FokkerPlanck(MESH, diffusion=lambda x: 0.1, potential=decorated)
    line = Mesh.interval(0, 1, 8)
    FokkerPlanck(line, diffusion=1.0, potential=np.sin)
    with pytest.raises(InputError, match="returned None"):
        FokkerPlanck(line, diffusion=1.0, potential=lambda x: None)
