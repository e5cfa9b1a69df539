"""How right and how fast are fluxes to corners? Errors on meshes that are not orthogonal and for
tensors, what the steps keep, costs beside two-point fluxes, multigrid, transport, ranks, FiPy.

    python benchmarks/corners.py --out benchmarks/RESULTS_corners.md
    python benchmarks/corners.py --part heat         # or: drift, ring, porous, space, promises,
                                                     # costs, multigrid, transport, ranks,
                                                     # peer
    python benchmarks/corners.py --quick

What runs on several ranks is started by the program itself.
"""

import tempfile
import warnings
from pathlib import Path
from time import perf_counter, process_time, strftime

import machine
import numpy as np
import skewed_meshes
import transport
from fokker_planck import cpu_of, forced
from jko import drop
from machine import ranks
from processes import PEER_PYTHON, child, hand_over, peer, peers_of
from scipy.interpolate import CubicSpline, RectBivariateSpline
from scipy.linalg import expm, solve_banded, solve_continuous_lyapunov

import fvot

PLANE = {
    "mapped quadrilaterals": skewed_meshes.mapped,
    "moved quadrilaterals": skewed_meshes.moved,
    "Kershaw's mesh": skewed_meshes.kershaw,
    "irregular triangles": skewed_meshes.irregular_triangles,
    "right triangles": skewed_meshes.right_triangles,
    "Voronoi polygons": skewed_meshes.voronoi,
    "hanging nodes": skewed_meshes.hanging_nodes,
}
SPACE = {
    "moved hexahedra": skewed_meshes.hexahedra,
    "cubes in six": skewed_meshes.cubes_in_six,
    "wedges": skewed_meshes.wedges,
}
FEW = "moved quadrilaterals", "irregular triangles", "Kershaw's mesh"


def build(kind, n, lower=0.0, upper=1.0):
    """The `Mesh` of that kind between two corners of the square or cube."""
    points, cells = (PLANE | SPACE)[kind](n)
    points = lower + (upper - lower) * points
    with warnings.catch_warnings():  # two-point fluxes warn of all that is measured here
        warnings.simplefilter("ignore")
        return fvot.Mesh.from_cells(points, cells, strict=False)


def quietly(equation, *arguments, **options):
    """An equation, without the warning that two-point fluxes are wrong on its mesh; None where they
    refuse it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return equation(*arguments, **options)
        except fvot.MeshError:
            return None


def turned(ratio):
    """Eigenvalues 1 and 1 / ratio, the first one along 30 degrees."""
    angle = np.pi / 6
    R = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return R @ np.diag([1, 1 / ratio]) @ R.T


def gaussian(mean, covariance):
    inverse = np.linalg.inv(covariance)
    height = 1 / np.sqrt(np.linalg.det(2 * np.pi * covariance))

    def density(x):
        z = x - np.reshape(mean, (-1, 1))
        return height * np.exp(-np.einsum("in,ij,jn->n", z, inverse, z) / 2)

    return density


def distance(mesh, rho, exact):
    return float(mesh.integrate(np.abs(rho - exact)))


def orders(errors, sizes):
    """The order between the last two sizes, to two digits."""
    return np.log(errors[-2] / errors[-1]) / np.log(sizes[-1] / sizes[-2])


def kept(ledger):
    """What a run has kept: the worst error of the mass, and the least density."""
    return f"{np.abs(ledger['mass_error']).max():.0e}", f"{ledger['minimum'].min():.0e}"


# ---- heat ----------------------------------------------------------------------------------------

RATIOS = (1, 100, 1e4)
HEAT_TARGETS = {  # of the error with 64 cells along a side, where D is a number
    "mapped quadrilaterals": 3.3e-3,
    "moved quadrilaterals": 3.3e-3,
    "irregular triangles": 1.9e-3,
    "hanging nodes": 1.1e-3,
}
RATIO_TARGET = 1e-2
ORDER_TARGET = 1.8


def heat_data(mesh, ratio):
    """(D, start, end after 0.15): cell means of a Gaussian in the middle that spreads."""
    D = 0.02 * turned(ratio)
    start = 3 * 0.04**2 * np.eye(2)
    means = [mesh.average(gaussian((0.5, 0.5), start + 2 * t * D), degree=6) for t in (0.0, 0.15)]
    return (0.02 if ratio == 1 else D), *means


def heat_target(kind, ratio):
    """The largest error with 64 cells along a side, or "-"."""
    if kind == "Kershaw's mesh":
        return "-"
    return HEAT_TARGETS.get(kind, "-") if ratio == 1 else RATIO_TARGET


def heat(report, quick):
    sizes = (12, 24) if quick else (32, 64, 128)
    lines = []
    for kind in PLANE:
        meshes = [build(kind, n) for n in sizes]
        for ratio in (1, 100) if quick else RATIOS:
            errors = []
            for mesh in meshes:
                D, start, end = heat_data(mesh, ratio)
                equation = fvot.FokkerPlanck(mesh, diffusion=D, scheme="corners")
                result = equation.solve(start, 0.15, tau=0.15 / 20)
                errors.append(distance(mesh, result.rho[-1], end))
            beside = "-"
            if ratio == 1:
                other = quietly(fvot.FokkerPlanck, mesh, diffusion=D, scheme="two_point")
                rho = other and other.solve(start, 0.15, tau=0.15 / 20).rho[-1]
                beside = "refused" if rho is None else f"{distance(mesh, rho, end):.1e}"
            target = heat_target(kind, ratio)
            order = orders(errors, sizes)
            is_met = target == "-" or errors[1] <= target
            is_met &= kind == "Kershaw's mesh" or order >= ORDER_TARGET
            lines.append(
                (
                    kind,
                    f"{ratio:g}",
                    *[f"{error:.2e}" for error in errors],
                    f"{order:.2f}",
                    beside,
                    *kept(result.ledger),
                    target,
                    "met" if is_met else "missed",
                )
            )
    report.say("## Heat: a Gaussian spreads, by the ratio of the eigenvalues of D; errors in L1\n")
    report.table(
        (
            "mesh",
            "ratio",
            *[f"n = {n}" for n in sizes],
            "order",
            f"two-point, {sizes[-1]}",
            "mass error",
            "minimum",
            "target, 64",
            "verdict",
        ),
        lines,
    )
    report.say(
        "20 steps of order 2 to t = 0.15, D = 0.02 along 30 degrees. Order: between the last two "
        f"sizes, target {ORDER_TARGET} but for Kershaw's mesh. Two-point: the error of "
        "scheme='two_point', which is not made for these meshes.\n"
    )


# ---- drifts --------------------------------------------------------------------------------------

ROTATION = -np.array([[1.0, -2.0], [2.0, 1.0]])


def ornstein_uhlenbeck(kind, n, ratio):
    """The error in L1 at t = 1, and the ledger, in 40 steps: drift and correlated noise."""
    mesh = build(kind, n, -7, 7)
    D = turned(ratio)
    mean = np.array([1.5, -0.5])
    E = expm(ROTATION)
    stationary = solve_continuous_lyapunov(ROTATION, -2 * D)
    end = stationary + E @ (0.3 * np.eye(2) - stationary) @ E.T
    start = mesh.average(gaussian(mean, 0.3 * np.eye(2)), degree=6)
    equation = fvot.FokkerPlanck(mesh, diffusion=D, drift=lambda x: ROTATION @ x, scheme="corners")
    result = equation.solve(start, 1.0, tau=1 / 40)
    exact = mesh.average(gaussian(E @ mean, end), degree=6)
    return distance(mesh, result.rho[-1], exact), result.ledger


def steep_wells(x):
    """Two wells on [-2, 2]^2, 40 kT below the saddle at kT = 1."""
    return 40 * (x[0] ** 2 - 1) ** 2 + 10 * x[1] ** 2


def slide(mesh, n_steps, **options):
    """The `Result` of a Gaussian that slides into a well."""
    start = mesh.average(gaussian((0.25, 0.7), 0.04 * np.eye(2)), degree=6)
    start = start / mesh.integrate(start)
    equation = fvot.FokkerPlanck(mesh, diffusion=1.0, potential=steep_wells, **options)
    return equation.solve(start, 0.01, tau=0.01 / n_steps)


def drift(report, quick):
    sizes = (16, 32) if quick else (64, 128)
    lines = []
    for kind in FEW:
        for ratio in (1, 10, 100):
            runs = [ornstein_uhlenbeck(kind, n, ratio) for n in sizes]
            errors = [error for error, _ in runs]
            lines.append(
                (
                    kind,
                    ratio,
                    *[f"{error:.2e}" for error in errors],
                    f"{orders(errors, sizes):.2f}",
                    *kept(runs[-1][1]),
                )
            )
    head = [f"n = {n}" for n in sizes]
    report.say("## Ornstein-Uhlenbeck with rotation and correlated noise: errors in L1\n")
    report.table(("mesh", "ratio", *head, "order", "mass error", "minimum"), lines)
    report.say("Drift A x, A = -(1 -2; 2 1), on [-7, 7]^2; 40 steps to t = 1.\n")

    fine = 64 if quick else 384
    squares = fvot.Mesh.rectangle((-2, -2), (2, 2), (fine, fine))
    reference = slide(squares, 80).rho[-1].reshape(fine, fine)
    x = -2 + 4 * (np.arange(fine) + 0.5) / fine
    spline = RectBivariateSpline(x, x, reference)
    lines = []
    for kind in FEW:
        errors = []
        for n in sizes:
            mesh = build(kind, n, -2, 2)
            result = slide(mesh, 20, scheme="corners")
            exact = mesh.average(lambda x: spline(x[0], x[1], grid=False), degree=6)
            errors.append(distance(mesh, result.rho[-1], exact))
        lines.append(
            (
                kind,
                *[f"{error:.2e}" for error in errors],
                f"{orders(errors, sizes):.2f}",
                f"{np.diff(result.ledger['energy']).max():.0e}",
                *kept(result.ledger),
            )
        )
    report.say(f"## Into a well of 40 kT: distances in L1 from {fine}^2 squares, two-point\n")
    report.table(
        ("mesh", *head, "order", "largest change of energy", "mass error", "minimum"), lines
    )


# ---- closed field lines --------------------------------------------------------------------------

RADIUS = 0.2
WIDTH = 0.05
ALONG = 2.0  # so that t = 0.1 is five times RADIUS^2 / ALONG


def ring_profile(mode, ratio, n=4000, n_steps=2000):
    """g(r) at t = 0.1 of the solution g(r) cos(mode theta): Crank and Nicolson in one dimension."""
    h = 1.0 / n
    r = (np.arange(n) + 0.5) * h
    across = ALONG / ratio
    inner = across * np.arange(1, n) * h / h**2
    lower = np.concatenate([[0.0], inner]) / r
    upper = np.concatenate([inner, [0.0]]) / r
    decay = ALONG * mode**2 / r**2
    middle = -lower - upper - decay
    tau = 0.1 / n_steps
    bands = np.zeros((3, n))
    bands[0, 1:] = -tau / 2 * upper[:-1]
    bands[1] = 1 - tau / 2 * middle
    bands[2, :-1] = -tau / 2 * lower[1:]
    g = np.exp(-((r - RADIUS) ** 2) / (2 * WIDTH**2))
    for _ in range(n_steps):
        change = middle * g
        change[1:] += lower[1:] * g[:-1]
        change[:-1] += upper[:-1] * g[1:]
        g = solve_banded((1, 1), bands, g + tau / 2 * change)
    return CubicSpline(r, g)


def around(x):
    """(radius, cosine, sine) of points about the middle of the unit square."""
    x = x - 0.5
    r = np.maximum(np.hypot(*x), 1e-12)
    return r, *(x / r)


def ring(report, quick):
    sizes = (16, 32) if quick else (64, 128)
    lines = []
    for ratio in (100, 1e4):
        profiles = [ring_profile(mode, ratio, *((400, 200) if quick else ())) for mode in (0, 1)]

        def diffusion(x, ratio=ratio):
            _, c, s = around(x)
            along = np.array([[s * s, -s * c], [-s * c, c * c]])
            return ALONG * (along + (np.eye(2)[:, :, None] - along) / ratio)

        def start(x):
            r, c, _ = around(x)
            return np.exp(-((r - RADIUS) ** 2) / (2 * WIDTH**2)) * (1 + c)

        def end(x, profiles=profiles):
            r, c, _ = around(x)
            return profiles[0](r) + profiles[1](r) * c

        for kind in ("mapped quadrilaterals", *FEW[:2], "Voronoi polygons"):
            errors = []
            for n in sizes:
                mesh = build(kind, n)
                equation = fvot.FokkerPlanck(mesh, diffusion=diffusion, scheme="corners")
                rho0 = mesh.average(start, degree=6)
                result = equation.solve(rho0, 0.1, tau=0.1 / 40)
                error = distance(mesh, result.rho[-1], mesh.average(end, degree=6))
                errors.append(error / mesh.integrate(rho0))
            lines.append(
                (
                    f"{ratio:g}",
                    kind,
                    *[f"{error:.2e}" for error in errors],
                    f"{orders(errors, sizes):.2f}",
                    *kept(result.ledger),
                )
            )
    report.say("## The limit, closed field lines: D along circles, relative errors in L1\n")
    report.table(
        ("ratio", "mesh", *[f"n = {n}" for n in sizes], "order", "mass error", "minimum"), lines
    )
    report.say(
        f"A ring of radius {RADIUS} and width {WIDTH} in the unit square, until diffusion along it "
        "has long finished: what is left is an error of about D h^2 across.\n"
    )


# ---- gradient flows ------------------------------------------------------------------------------


def porous(report, quick):
    sizes = (16, 32) if quick else (32, 64, 128)
    lines = []
    for kind in PLANE:
        errors = []
        for n in sizes:
            mesh = build(kind, n, -6, 6)
            rho0, exact = (mesh.average(drop(2, t), degree=8) for t in (1.0, 2.0))
            equation = fvot.JKO(mesh, fvot.Power(2), scheme="corners")
            result = equation.solve(rho0, [1, 2], tau=1 / 16)
            errors.append(distance(mesh, result.rho[-1], exact) / mesh.integrate(rho0))
        other = quietly(fvot.JKO, mesh, fvot.Power(2), scheme="two_point")
        rho = other and other.solve(rho0, [1, 2], tau=1 / 16).rho[-1]
        ledger = result.ledger
        lines.append(
            (
                kind,
                *[f"{error:.2e}" for error in errors],
                f"{orders(errors, sizes):.2f}",
                "refused"
                if rho is None
                else f"{distance(mesh, rho, exact) / mesh.integrate(rho0):.1e}",
                f"{ledger['newton'][-1] / ledger['steps'][-1]:.1f}",
                f"{np.diff(ledger['energy']).max():.0e}",
                *kept(ledger),
            )
        )
    report.say("## Barenblatt's drop, m = 2, from t = 1 to 2 in 16 steps: relative errors in L1\n")
    report.table(
        (
            "mesh",
            *[f"n = {n}" for n in sizes],
            "order",
            f"two-point, {sizes[-1]}",
            "Newton/step",
            "largest change of energy",
            "mass error",
            "minimum",
        ),
        lines,
    )


# ---- in space ------------------------------------------------------------------------------------


def space(report, quick):
    sizes = (4, 8) if quick else (5, 10, 20)
    lines = []
    for kind in SPACE:
        errors = []
        for n in sizes:
            mesh = build(kind, n)
            start, end = (
                mesh.average(
                    lambda x, t=t: 1 + 0.9 * np.cos(np.pi * x).prod(axis=0) * np.exp(-t), degree=6
                )
                for t in (0.0, 0.3 * np.pi**2 / 10)
            )
            equation = fvot.FokkerPlanck(mesh, diffusion=0.1, scheme="corners")
            result = equation.solve(start, 0.1, tau=0.1 / 10)
            errors.append(distance(mesh, result.rho[-1], end))
        lines.append(
            (
                kind,
                mesh.n_cells,
                *[f"{error:.2e}" for error in errors],
                f"{orders(errors, sizes):.2f}",
                *kept(result.ledger),
            )
        )
    report.say("## In space: decay of a product of cosines, errors in L1\n")
    report.table(
        ("mesh", "cells", *[f"n = {n}" for n in sizes], "order", "mass error", "minimum"), lines
    )


# ---- what the steps keep -------------------------------------------------------------------------

MASS_TARGET = 2e-15
GIBBS_TARGET = 2e-14


def promises(report, quick):
    n = 12 if quick else 32
    lines = []
    for kind in [kind for kind in PLANE if kind != "mapped quadrilaterals"]:
        mesh = build(kind, n, -2, 2)
        block = mesh.density(lambda x: (np.abs(x[0]) < 0.5) & (x[1] > 0.5))
        gibbs = np.exp(-steep_wells(mesh.centroid))
        gibbs /= mesh.integrate(gibbs)
        for ratio in (1, 100):
            equation = fvot.FokkerPlanck(
                mesh,
                diffusion=turned(ratio),
                potential=steep_wells,
                temperature=1.0,
                scheme="corners",
            )
            lost = lowest = rise = moved = 0.0
            limited = 0
            for tau in (1e-3, 1e-1, 10.0, 1e3):
                t = tau * np.arange(11)
                ledger = equation.solve(block, t, tau=tau).ledger
                lost = max(lost, np.abs(ledger["mass_error"]).max())
                lowest = min(lowest, ledger["minimum"].min())
                growth = np.diff(ledger["energy"]) / np.abs(ledger["energy"]).max()
                rise = max(rise, growth.max())
                limited += int(ledger["limited"][-1])
                after = equation.solve(gibbs, 10 * tau, tau=tau).rho[-1]
                moved = max(moved, distance(mesh, after, gibbs))
            is_met = lost <= MASS_TARGET and lowest >= 0 and rise <= 1e-15
            is_met &= moved <= GIBBS_TARGET
            lines.append(
                (
                    kind,
                    ratio,
                    f"{lost:.0e}",
                    f"{lowest:.0e}",
                    f"{rise:.0e}",
                    limited,
                    f"{moved:.0e}",
                    "met" if is_met else "missed",
                )
            )
    report.say("## What steps keep: 10 steps of 1e-3, 0.1, 10 and 1000 from a block\n")
    report.table(
        ("mesh", "ratio", "mass error", "minimum", "energy up", "limited", "Gibbs", "verdict"),
        lines,
    )
    report.say(
        f"{n}^2 cells, a potential of 400 kT in the corners, a turned tensor; the worst of all. "
        "Energy up: the largest growth of the free energy in a step, relative to the energy. "
        "Limited: of 40 steps. Gibbs: what the Gibbs density has moved in L1 after ten steps. "
        f"Targets: {MASS_TARGET:g}, 0, round-off, {GIBBS_TARGET:g}.\n"
    )


# ---- costs ---------------------------------------------------------------------------------------

COST_TARGETS = {
    "irregular triangles": 1.3,
    "moved quadrilaterals": 3,
    "Voronoi polygons": 4,
    "moved hexahedra": 4,
}
SCHEMES = "two_point", "corners"
COUNT = 20  # steps of a run


def heap(mesh):
    return mesh.density(lambda x: np.exp(-20 * ((x - 0.5) ** 2).sum(axis=0)))


def set_up(mesh, scheme, tau):
    """(an equation that has taken a step of that length, CPU seconds)."""

    def work():
        equation = quietly(fvot.FokkerPlanck, mesh, diffusion=1.0, scheme=scheme)
        equation.step(heap(mesh), tau)
        return equation

    return cpu_of(work)


def cost_of(mesh, method, tau, rounds):
    """{scheme: (us per cell of the set-up, of a solve, iterations)}: the least of the rounds, in
    which all matrices are there.
    """
    start = heap(mesh)
    made = {}
    taken = dict.fromkeys(SCHEMES, np.inf)
    iterations = {}
    equations = {}
    with forced(method):
        for scheme in SCHEMES:
            equations[scheme], made[scheme] = set_up(mesh, scheme, tau)
        for _ in range(1 + rounds):
            for scheme, equation in equations.items():
                result, cpu = cpu_of(
                    lambda equation=equation: equation.solve(
                        start, COUNT * tau, tau=tau, progress=False
                    )
                )
                solves = result.ledger["solves"][-1]
                taken[scheme] = min(taken[scheme], cpu / solves)
                iterations[scheme] = result.ledger["iterations"][-1] / solves
    unit = 1e6 / mesh.n_cells
    return {
        scheme: (made[scheme] * unit, taken[scheme] * unit, iterations[scheme])
        for scheme in SCHEMES
    }


def costs(report, quick):
    lines = []
    flows = []
    for kind, target in COST_TARGETS.items():
        n = (6 if quick else 24) if kind in SPACE else (16 if quick else 128)
        mesh = build(kind, n)
        tau = 100 / n**2
        for method in "lu", "amg":
            found = cost_of(mesh, method, tau, 2 if quick else 4)
            (made, taken, _), (corners_made, corners_taken, count) = found.values()
            ratio = corners_taken / taken
            lines.append(
                (
                    kind,
                    mesh.n_cells,
                    method.upper(),
                    f"{made:.2f}",
                    f"{corners_made:.2f}",
                    f"{corners_made / made:.1f}",
                    f"{taken:.3f}",
                    f"{corners_taken:.3f}",
                    f"{count:.0f}",
                    f"{ratio:.1f}",
                    target,
                    "met" if ratio <= target else "missed",
                )
            )
        flows += flow_costs(kind, mesh, 2 if quick else 3)
    report.say("## Costs of a solve beside two-point fluxes: us of one core per cell\n")
    report.table(
        (
            "mesh",
            "cells",
            "method",
            "set-up, two-point",
            "corners",
            "times",
            "solve, two-point",
            "corners",
            "iterations",
            "times",
            "target",
            "verdict",
        ),
        lines,
    )
    report.say(
        "Set-up: constructor and first step, corners and pattern of the mesh included. Solve: an "
        f"implicit Euler step, everything in it, in {COUNT} steps of order 2 and 100 h^2 / D. "
        "Both schemes in turn, the least of several rounds.\n"
    )
    report.say("## Costs of a step of a gradient flow: us of one core per cell\n")
    report.table(
        ("mesh", "energy", "two-point", "corners", "times", "Newton, two-point", "corners"), flows
    )
    report.say("Order 2, steps of 0.01 from a smooth density; the second and following steps.\n")


def flow_costs(kind, mesh, rounds):
    """Lines of the table of gradient flows for a mesh."""
    energies = {
        "porous medium, m = 2": fvot.Power(2),
        "diffusion, drift": fvot.Entropy() + fvot.Potential(lambda x: 4 * x[0]),
    }
    lines = []
    for name, energy in energies.items():
        best = dict.fromkeys(SCHEMES, np.inf)
        newton = {}
        equations = {scheme: quietly(fvot.JKO, mesh, energy, scheme=scheme) for scheme in SCHEMES}
        starts = {scheme: equations[scheme].step(heap(mesh), 0.01) for scheme in SCHEMES}
        for _ in range(rounds):
            for scheme in SCHEMES:
                begin = process_time()
                result = equations[scheme].solve(starts[scheme], 0.02, tau=0.01, progress=False)
                seconds = process_time() - begin
                steps = result.ledger["steps"][-1]
                best[scheme] = min(best[scheme], seconds / steps)
                newton[scheme] = result.ledger["newton"][-1] / steps
        two_point, corners = (1e6 * best[scheme] / mesh.n_cells for scheme in SCHEMES)
        counts = [f"{newton[scheme]:.1f}" for scheme in SCHEMES]
        times = f"{corners / two_point:.1f}"
        lines.append((kind, name, f"{two_point:.2f}", f"{corners:.2f}", times, *counts))
    return lines


# ---- multigrid -----------------------------------------------------------------------------------

ITERATION_TARGETS = {1: 15, 1e4: 30}


def multigrid(report, quick):
    lines = []
    for kind in ("moved quadrilaterals", "irregular triangles", "Voronoi polygons", *SPACE):
        n = (6 if quick else 16) if kind in SPACE else (16 if quick else 96)
        mesh = build(kind, n)
        for ratio, target in ITERATION_TARGETS.items():
            if mesh.dim == 2:
                D = turned(ratio)
            else:
                R = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
                D = R @ np.diag([1, 1, 1 / ratio]) @ R.T
            counts = []
            for length in (10, 1e3):
                tau = length / n**2
                with forced("amg"):
                    equation = fvot.FokkerPlanck(mesh, diffusion=D, order=1, scheme="corners")
                    ledger = equation.solve(heap(mesh), 4 * tau, tau=tau).ledger
                counts.append(ledger["iterations"][-1] / ledger["solves"][-1])
            verdict = "met" if max(counts) <= target else "missed"
            shown = [f"{count:.1f}" for count in counts]
            lines.append((kind, mesh.n_cells, f"{ratio:g}", *shown, target, verdict))
    report.say("## Iterations of GMRES with multigrid for a solve to 1e-10\n")
    report.table(
        ("mesh", "cells", "ratio", "s = 10 h^2 / D", "s = 1000 h^2 / D", "target", "verdict"), lines
    )


# ---- ranks ---------------------------------------------------------------------------------------

RANKS = 1, 2, 4
FLOWS = "FokkerPlanck, quadrilaterals", "FokkerPlanck, hexahedra", "JKO, triangles"


def on_ranks(case, quick):
    """[cells, wall seconds, density] of a case on these ranks; the second of two runs is timed."""
    if case.endswith("hexahedra"):
        mesh = build("moved hexahedra", 6 if quick else 24)
    elif case.endswith("quadrilaterals"):
        mesh = build("moved quadrilaterals", 16 if quick else 192)
    else:
        mesh = build("irregular triangles", 12 if quick else 64)
    D = np.diag([1.0, 0.1, 0.2][: mesh.dim])
    if case.startswith("JKO"):
        equation = fvot.JKO(mesh, fvot.Power(2), scheme="corners")
    else:
        equation = fvot.FokkerPlanck(mesh, diffusion=D, scheme="corners")
    best = np.inf
    for _ in range(3):
        ranks.wait()
        begin = perf_counter()
        result = equation.solve(heap(mesh), 0.02, tau=0.002, progress=False)
        best = min(best, float(ranks.max(perf_counter() - begin)))
    return [mesh.n_cells_global, best, mesh.gather(result.rho[-1]).tolist()]


def several(report, quick):
    lines = []
    for case in FLOWS:
        runs = [child(__file__, n, case=case, quick=quick) for n in RANKS]
        alone = np.array(runs[0][2])
        far = [np.abs(np.array(run[2]) - alone).max() / alone.max() for run in runs[1:]]
        times = [f"{run[1]:.2f}" for run in runs[:2]]
        lines.append((case, runs[0][0], *times, *[f"{value:.0e}" for value in far]))
    report.say("## Ranks\n")
    report.table(("run", "cells", "1 rank s", "2 ranks s", "2 ranks, difference", "4 ranks"), lines)
    report.say(
        "Ten steps; wall time, the best of three. Difference: of the densities from those on one "
        "rank, relative to the largest one; FokkerPlanck solves to 1e-10.\n"
    )


# ---- FiPy ----------------------------------------------------------------------------------------

PEERS = {
    "FiPy, implicit Euler": "euler",
    "FiPy, Crank-Nicolson": "crank-nicolson",
    "FiPy, Euler, its correction": "corrected",
}


def beside(report, quick, python):
    """Heat on mapped quadrilaterals: the same cell means, D and steps."""
    n = 16 if quick else 64
    lines = []
    mesh = build("mapped quadrilaterals", n)
    points, [(_, cells)] = skewed_meshes.mapped(n)
    for ratio in (1, 10):
        D, start, end = heat_data(mesh, ratio)
        for scheme in SCHEMES:
            if scheme == "two_point" and ratio > 1:
                continue
            found = []
            for _ in range(3):
                begin = process_time()
                equation = quietly(fvot.FokkerPlanck, mesh, diffusion=D, scheme=scheme)
                result = equation.solve(start, 0.15, tau=0.15 / 20)
                found.append(process_time() - begin)
            error = distance(mesh, result.rho[-1], end)
            lost, _ = kept(result.ledger)
            label = f"fvot, {scheme.replace('_', '-')}, order 2"
            lines.append((ratio, label, 20, f"{min(found):.2f}", f"{error:.2e}", lost))
        if not python:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "heat.npz"
            tensor = 0.02 * turned(ratio)
            np.savez(path, points=points, cells=cells, D=tensor, start=start, end=end)
            for label, how in PEERS.items():
                steps = 20 if how == "crank-nicolson" else 100
                other = peer(python, "peers.py", "fipy-heat", path, steps, how)
                if other:
                    lines.append(
                        (
                            ratio,
                            f"{label} ({other['version']})",
                            steps,
                            f"{other['seconds']:.2f}",
                            f"{other['error']:.2e}",
                            f"{abs(other['mass']):.0e}",
                        )
                    )
    report.say(f"## Heat on {n}^2 mapped quadrilaterals, beside FiPy in the same run\n")
    report.table(("ratio", "program", "steps", "CPU s", "L1 error", "mass error"), lines)
    report.say(
        "The same mesh, cell means, tensor and end; CPU with the set-up of the equation, without "
        "that of the mesh. FiPy: DiffusionTerm, which takes the mesh as orthogonal and the cross "
        "part of a tensor from gradients; its correction: DiffusionTermCorrection, in three sweeps "
        "a step; all by LU.\n"
    )


# ---- the program ---------------------------------------------------------------------------------


def main(part="all", peer_python=PEER_PYTHON, out="", quick=False, rows="", case=""):
    """Measure *part* (see above, or all); write the tables to the file *out*, too. quick: small,
    for a test. rows, case: for the processes that this one starts.
    """
    if rows:
        return hand_over(on_ranks(case, quick), rows)
    if ranks.size > 1:
        raise fvot.InputError("start this on one rank: it starts what runs on several")
    report = machine.Report()
    report.say("# Fluxes to corners: errors and speed\n")
    report.say(f"One run of `benchmarks/corners.py` on {strftime('%d %B %Y')}.\n")
    report.table(("machine", ""), machine.rows())
    python = peers_of(report, peer_python) if part in ("all", "peer") else ""
    works = dict(
        heat=heat,
        drift=drift,
        ring=ring,
        porous=porous,
        space=space,
        promises=promises,
        costs=costs,
        multigrid=multigrid,
        transport=transport.any_mesh,
        ranks=several,
        peer=lambda report, quick: beside(report, quick, python),
    )
    parts = {name: lambda work=work: work(report, quick) for name, work in works.items()}
    report.measure(part, parts)
    report.write(out)


if __name__ == "__main__":
    fvot.run(main)
