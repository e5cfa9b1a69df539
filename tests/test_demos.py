"""Every demo, small, on 1, 2 and 3 ranks: the same numbers."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.ranks

DEMOS = Path(__file__).parent.parent / "demos"
SMALL = {
    "any_mesh": lambda folder: dict(n=16, levels=1, pictures=False, out=str(folder)),
    "aquifer": lambda folder: dict(n=40, end=6.0, n_times=3, pictures=False, out=str(folder)),
    "continuity": lambda folder: dict(n=8, levels=2),
    "correlated_noise": lambda folder: dict(
        levels=2, n_times=6, count=2000, pictures=False, out=str(folder)
    ),
    "double_well": lambda folder: dict(
        mesh="polygons", n=16, steps=10, pictures=False, out=str(folder)
    ),
    "evacuation": lambda folder: dict(end=0.8, n_times=5, steps=4, pictures=False, out=str(folder)),
    "geodesic": lambda folder: dict(n_steps=8, tol=5e-2, pictures=False, out=str(folder)),
    "harbour": lambda folder: dict(tide=6.0, n_times=3, pictures=False, out=str(folder)),
    "image_morph": lambda folder: dict(
        size=32, n_steps=8, tol=2e-3, pictures=False, out=str(folder)
    ),
    "langevin": lambda folder: dict(
        n=24, count=2000, n_times=3, tau=0.02, pictures=False, out=str(folder)
    ),
    "mueller_brown": lambda folder: dict(
        mesh="triangles", n=24, n_times=9, tol=1e-2, pictures=False, out=str(folder)
    ),
    "porous_medium": lambda folder: dict(
        mesh="polygons", n=12, levels=2, end=2.0, steps=4, pictures=False, out=str(folder)
    ),
    "snapshots": lambda folder: dict(
        n=24,
        noise=(0.1, 0.05),
        width=0.06,
        n_steps=16,
        sweeps=1,
        pictures=False,
        out=str(folder),
    ),
    "swarm": lambda folder: dict(refine=0, end=0.2, n_times=3, pictures=False, out=str(folder)),
    "terrain": lambda folder: dict(
        coarsen=16, n_times=7, tol=1e-2, pictures=False, out=str(folder)
    ),
    "toggle_switch": lambda folder: dict(n=24, pictures=False, out=str(folder)),
    "transition_paths": lambda folder: dict(
        mesh="triangles", n=24, radius=0.2, pictures=False, out=str(folder)
    ),
    "w2_convergence": lambda folder: dict(
        problems=("waves", "blocks"), n=8, levels=2, tol=2e-3, pictures=False, out=str(folder)
    ),
    "witnesses": lambda folder: dict(n=24),
}
# Measured on one rank; on others it must be the same.
NUMBERS = {
    "any_mesh": {
        "squares, auto": 1.025711682,
        "squares, two_point": 1.025711682,
        "right triangles, auto": 1.017762916,
        "right triangles, two_point": 1.025657204,
        "hanging nodes, auto": 1.031358513,
        "hanging nodes, two_point": 1.01453251,
        "warped, auto": 1.043117131,
        "warped, two_point": 0.9405099882,
    },
    "aquifer": {
        "mass": 520.8350933,
        "killed": 75.88465956,
        "well": 3.277643264,
        "river": 0.002603964012,
        "half_way": 0.001702906568,
    },
    "continuity": {
        "rotation_squares": 0.08593491091,
        "rotation_triangles": 0.04570894308,
        "rotation_polygons": 0.1075064839,
        "swirl_squares": 0.0558772391,
        "swirl_triangles": 0.02230860396,
        "swirl_polygons": 0.06479364447,
    },
    "correlated_noise": {
        "error_0_0": 0.1994313904,
        "error_0_1": 0.1685306302,
        "error_0_2": 0.05827954263,
        "error_1_0": 0.05192879137,
        "error_1_1": 0.04533910934,
        "error_1_2": 0.01433024347,
        "by_density": 0.007723380007,
        "by_particles": 0.00759697112,
    },
    "double_well": {
        "observed": 0.002462910747,
        "computed": 0.002462875559,
        "left": 0.5250744731,
        "ratio_4": 0.9327775833,
        "ratio_8": 1.019326269,
        "ratio_16": 1.168998403,
        "ratio_40": 1.919743829,
        "ratio_400": 5690.163431,
    },
    "evacuation": {"inside": 0.5579893358, "half": 0.8646214925, "pressure": 0.2682471464},
    "geodesic": {
        "cost": 8.524059341,
        "lower_bound": 8.237176622,
        "straight": 2.584958273,
        "slowest": 2.834754866,
        "fastest": 2.904674178,
    },
    "harbour": {"outflow": 0.884649033, "mass": 0.115350967, "maximum": 0.692650275},
    "image_morph": {"cost": 0.04340181468, "lower_bound": 0.04337528471, "half": 1.980035367},
    "langevin": {
        "worst": 3.5400818055,
        "mean": -0.7426811547837676,
        "density": -0.7297689937511735,
    },
    "mueller_brown": {
        "slow": 0.2015785205,
        "fast": 40.83849206,
        "stay": 0.493542783,
        "most": 0.816204605,
        "A": 0.9743856267,
        "B": 0.02242977871,
        "C": 0.003184594548,
    },
    "porous_medium": {"error_0": 0.0376897673, "error_1": 0.009801183377, "energy": 1.470924664},
    "snapshots": {
        "cost": 0.294648691,
        "lower_bound": 0.2945178846,
        "cost_0.1": 0.4490831156,
        "cost_0.05": 0.2818552898,
        "action_0.1": 0.2746339596,
        "action_0.05": 0.1946307118,
        "middle_0.1": 0.8613934949,
        "middle_0.05": 0.5701483535,
    },
    "swarm": {"energy": -0.03641484634, "maximum": 1.351311541, "before": -0.01770029159},
    "terrain": {
        "slowest": 135331.5578,
        "free": 135.9539685,
        "away": 0.685920005,
        "height": 294.551909,
    },
    "toggle_switch": {
        "time": 1841.366925,
        "k_AB": 0.0005449136581,
        "k_BA": 0.0005449136581,
        "slowest": 0.001093719509,
        "difference": 0.3291960626,
        "langevin_5": 21.76910333,
        "langevin_10": 61.22628375,
        "langevin_20": 340.5851843,
        "langevin_40": 10104.24496,
        "molecules_5": 22.87608563,
        "molecules_10": 58.47696405,
        "molecules_20": 309.3834699,
        "molecules_40": 8904.410408,
    },
    "transition_paths": {
        "rate": 0.00495361285,
        "k_AB": 0.005082833222,
        "k_BA": 0.1948484407,
        "time": 196.7461392,
        "under_way": 0.0002321642548,
        "at_top": 0.266475115,
        "ratio_20": 0.5848260751,
        "ratio_10": 0.8041987341,
        "ratio_5": 0.9451485945,
        "ratio_2.5": 1.072000888,
        "ratio_1": 1.809040963,
        "back_20": 0.3923296192,
        "back_10": 0.6609761151,
        "back_5": 0.8747178499,
        "back_2.5": 0.8482337941,
        "back_1": 0.6071322643,
    },
    "w2_convergence": {
        "waves_squares": 1.005845964,
        "waves_triangles": 1.001802012,
        "waves_polygons": 1.005442779,
        "blocks_squares": 1.025990147,
        "blocks_triangles": 1.048871363,
        "blocks_polygons": 1.02483407,
    },
    "witnesses": 33,
}
FEWER = {"witnesses": 1}  # ranks, at most, without --slow
# Upper bounds of W2^2 depend on how far a linear solver goes. On squares one rank takes cosine
# transforms and several take multigrid: their bounds of W2^2 overlap, so that numbers are as near
# as the certified gap, the demo's tol.
WITHIN = {
    "any_mesh": 1e-5,
    "geodesic": 1e-5,
    "image_morph": 2e-3,
    "snapshots": 1e-3,
    "w2_convergence": 5e-4,
}


def main(name):
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMOS / f"{name}.py")
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    return demo.main


def test_every_demo_is_here():
    assert set(SMALL) == {path.stem for path in DEMOS.glob("*.py")}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_the_numbers_of_a_demo(name, shared_folder, ranks, request):
    if ranks.size > FEWER.get(name, 9) and not request.config.option.slow:
        pytest.skip("on so many ranks with --slow only")
    found = main(name)(**SMALL[name](shared_folder))
    if name == "witnesses":  # identities, each of which holds or not
        assert [what for what, holds in found.items() if not holds] == [] and len(found) == NUMBERS[
            name
        ]
        return
    assert found == pytest.approx(NUMBERS[name], rel=WITHIN.get(name, 1e-6))
