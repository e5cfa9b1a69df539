"""Every demo, small, on 1, 2 and 3 ranks: the same numbers."""
import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.ranks

DEMOS = Path(__file__).parent.parent / "demos"
SMALL = {"continuity": lambda folder: dict(n=8, levels=2),
         "harbour": lambda folder: dict(tide=6.0, n_times=3, pictures=False, out=str(folder))}
# Measured on one rank; on others it must be the same.
NUMBERS = {
    "continuity": {
        "rotation_squares": 0.0859363549, "rotation_triangles": 0.0457089675, "rotation_polygons": 0.1075065,
        "swirl_squares": 0.0594589964, "swirl_triangles": 0.0222762369, "swirl_polygons": 0.0653128359},
    "harbour": {"outflow": 0.884649033, "mass": 0.115350967, "maximum": 0.692650275},
}


def main(name):
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMOS / f"{name}.py")
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    return demo.main


def test_every_demo_is_here():
    assert set(SMALL) == {path.stem for path in DEMOS.glob("*.py")}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_numbers_of_a_demo(name, shared_folder):
    found = main(name)(**SMALL[name](shared_folder))
    assert found == pytest.approx(NUMBERS[name], rel=1e-6)
