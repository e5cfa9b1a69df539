"""How fast and how right is the Fokker-Planck equation? Ornstein-Uhlenbeck beside other packages,
linear solvers, steps.

    python benchmarks/fokker_planck.py --out benchmarks/RESULTS_fokker_planck.md
    python benchmarks/fokker_planck.py --part solver        # or: ou, step, million, costs
    python benchmarks/fokker_planck.py --peer-python bin/python    # one that has peers.txt
    python benchmarks/fokker_planck.py --quick

What is measured on two ranks, or alone in a process because of its memory, is run by the program
itself.
"""

from contextlib import ExitStack, contextmanager
from statistics import median
from time import perf_counter, process_time, strftime

import machine
import numpy as np
import processes
from machine import ranks
from processes import PEER_PYTHON, hand_over, peak, peer, peers_of
from scipy.special import erf

import fvot
from fvot import linalg
from fvot.finite_volume.implicit_step import ColumnScaleCache, Resolvent
from fvot.finite_volume.rates import Rates, SparsityPattern
from fvot.fokker_planck.coefficients import Terms
from fvot.fokker_planck.run import FokkerPlanckRun
from fvot.fokker_planck.schemes import find_scheme
from fvot.fokker_planck.stepper import Stepper
from fvot.fokker_planck.two_point import TwoPointDriftDiffusion
from fvot.mesh.numbering import find_numbering
from fvot.runs.recorder import Recorder

MESHES = {
    "squares": lambda n: fvot.Mesh.rectangle((-2, -2), (2, 2), (n, n)),
    "triangles": lambda n: fvot.Mesh.triangles((-2, -2), (2, 2), n),
    "polygons": lambda n: fvot.Mesh.voronoi((-2, -2), (2, 2), n * n),
    "boxes": lambda n: fvot.Mesh.box((-2, -2, -2), (2, 2, 2), (n, n, n)),
    "tetrahedra": lambda n: fvot.Mesh.tetrahedra((-2, -2, -2), (2, 2, 2), n),
    "intervals": lambda n: fvot.Mesh.interval(-2, 2, n),
}


# ---- problems ------------------------------------------------------------------------------------


def ou_mesh(n):
    return fvot.Mesh.rectangle((-7, -7), (7, 7), (n, n))


def half_square(x):
    return (x**2).sum(axis=0) / 2


def gaussian(mesh, t):
    """Cell means of the Ornstein-Uhlenbeck process with D = 1 at time t, on the squares of
    `ou_mesh`.
    """
    n = round(mesh.n_cells_global**0.5)
    edges = np.linspace(-7, 7, n + 1)
    width = np.sqrt(2 * (1 - 0.75 * np.exp(-2 * t)))
    x, y = (np.diff(erf((edges - mean * np.exp(-t)) / width)) / 2 * n / 14 for mean in (1.5, -1.0))
    i, j = np.rint((mesh.center + 7) * n / 14 - 0.5).astype(int)
    return x[i] * y[j]


def two_wells(x):
    """On [-2, 2]^2: from 0 in the wells to 40 in the corners, hence ranges of 40 / D."""
    return 4 * (x[0] ** 2 - 1) ** 2 + (x[1:] ** 2).sum(axis=0)


def rotating(w):
    """w J x, a drift that is no gradient; None without."""
    return None if w == 0 else lambda x: w * np.concatenate([np.stack([-x[1], x[0]]), 0 * x[2:]])


def wells(mesh, D, w=0):
    """The rates of diffusion in `two_wells`, with rotation, and the largest one at which a cell is
    emptied.
    """
    terms = Terms(D, two_wells, rotating(w))
    rates = TwoPointDriftDiffusion(find_numbering(mesh), terms).rates()
    return rates, mesh.ranks.max(rates.leaving().max(initial=0.0))


# ---- what the time is spent on -------------------------------------------------------------------


@contextmanager
def replaced(owner, name, new):
    """owner.name is new(what it was) while the block runs."""
    old = getattr(owner, name)
    setattr(owner, name, new(old))
    try:
        yield
    finally:
        setattr(owner, name, old)


def forced(method):
    """Only this linear solver, while the block runs."""
    return replaced(linalg, "estimate_costs", lambda old: lambda *about: {method: (1.0, 1.0)})


@contextmanager
def choices():
    """The methods that are chosen, while the block runs, in a list."""
    chosen = []

    def listed(ranked):
        def rank(*arguments):
            names = ranked(*arguments)
            chosen.append(names[0])
            return names

        return rank

    with replaced(linalg, "rank_methods", listed):
        yield chosen


class Clock:
    """CPU seconds of this rank by what they were spent on; what is done within something else
    counts only once.
    """

    def __init__(self):
        self.seconds = {}
        self.stack = []

    def of(self, what, work):
        def timed_work(*arguments, **options):
            begin = process_time()
            self.stack.append(0.0)
            try:
                return work(*arguments, **options)
            finally:
                whole = process_time() - begin
                inside = self.stack.pop()
                self.seconds[what] = self.seconds.get(what, 0.0) + whole - inside
                if self.stack:
                    self.stack[-1] += whole

        return timed_work

    def solve(self, call):
        """`System.__call__` with PETSc's set-up (factorisation, multigrid) apart."""

        def ready(system):
            system.ksp.setUp()
            system.ksp.setUpOnBlocks()

        setup = self.of("set-up", ready)
        solve = self.of("solve", call)

        def set_up_and_solve(system, *arguments):
            setup(system)
            return solve(system, *arguments)

        return set_up_and_solve


@contextmanager
def watched():
    """A `Clock` of assembly, PETSc's set-up and its solves, while the block runs."""
    clock = Clock()
    assembly = [
        (TwoPointDriftDiffusion, "rates", "coefficients"),
        (SparsityPattern, "__init__", "pattern"),
        (SparsityPattern, "matrix", "matrix"),
        (Rates, "order_by_drift", "order"),
        (linalg.System, "__init__", "matrix to PETSc"),
        (Stepper, "_find_minus_log_gibbs", "Gibbs density"),
        (Resolvent, "__init__", "choice"),
        (Stepper, "compute_energy_growth", "free energy"),
        (Resolvent, "_residual", "residuals"),
        (FokkerPlanckRun, "account", "ledger"),
        (Recorder, "_summarise", "ledger"),
    ]
    with ExitStack() as stack:
        for owner, name, what in assembly:
            stack.enter_context(replaced(owner, name, lambda old, what=what: clock.of(what, old)))
        stack.enter_context(replaced(linalg.System, "__call__", clock.solve))
        yield clock


def cpu_of(work):
    """(result, CPU seconds of the slowest rank) of work()."""
    ranks.wait()
    begin = process_time()
    result = work()
    return result, float(ranks.max(process_time() - begin))


# ---- other processes -----------------------------------------------------------------------------


def child(part, n_ranks, quick, case=""):
    """The rows that *part* of this program measures in a process of its own, on n_ranks ranks."""
    return processes.child(__file__, n_ranks, part=part, case=case, quick=quick)


def everywhere(work, quick):
    """work(quick) here, or what its child measured: rows on one and on two ranks."""
    return work(quick) + child(work.__name__, 2, quick)


# ---- Ornstein-Uhlenbeck --------------------------------------------------------------------------


def ou_run(mesh, order, steps=None, tol=1e-4, repetitions=1):
    """(Result, CPU seconds with everything that follows the mesh, factorisation included): the best
    of some.
    """
    start = gaussian(mesh, 0.0)

    def run():
        equation = fvot.FokkerPlanck(
            mesh, diffusion=1.0, potential=half_square, order=order, tol=tol
        )
        return equation.solve(start, 1.0, tau=steps and 1.0 / steps, progress=False)

    runs = [cpu_of(run) for _ in range(repetitions)]
    return runs[-1][0], min(seconds for _, seconds in runs)


def ou_error(mesh, rho, other=None):
    return float(mesh.integrate(np.abs(rho - (gaussian(mesh, 1.0) if other is None else other))))


# cells along a side, order, steps: (largest L1 error, most CPU seconds)
OU_TARGETS = {(256, 2, 20): ("3.7e-04", "0.6"), (1024, 2, 40): ("1e-04", "25")}
# name, solver in `peers.py`, cells along a side, steps: those that take less than about a minute
FIPY = "FiPy, Euler, BiCGStab", "FiPy, Euler, LU (its default)"
PEERS = [
    (FIPY[0], "fipy-krylov", 128, 100),
    (FIPY[0], "fipy-krylov", 256, 100),
    (FIPY[1], "fipy-lu", 128, 100),
    ("fplanck, expm", "fplanck", 128, 0),
    ("fplanck, expm", "fplanck", 256, 0),
    *[("py-pde, explicit", "pypde", n, 418 * (n // 128) ** 2) for n in (128, 256, 512)],
]
SPEED = [(FIPY[0], "fipy-krylov", n, 5) for n in (128, 256, 512)] + [
    (FIPY[1], "fipy-lu", n, 5) for n in (128, 256, 512)
]


def ou_orders(report, quick, repetitions):
    mesh = ou_mesh(32 if quick else 256)
    for order in 1, 2, 3:
        ou_run(mesh, order, 2)  # compiles, and warms up
    reference = ou_run(mesh, 3, 40 if quick else 160)[0].rho[-1]
    cases = [
        (1, 20),
        (1, 100),
        (2, 5),
        (2, 10),
        (2, 20),
        (2, 40),
        (3, 5),
        (3, 10),
        (3, 20),
        (3, 40),
    ]
    cases += [(order, tol) for order in (2, 3) for tol in (1e-2, 1e-3, 1e-4)]
    lines = []
    for order, steps in cases:
        fixed = steps >= 1
        result, cpu = ou_run(
            mesh, order, steps if fixed else None, 1e-4 if fixed else steps, repetitions
        )
        ledger = {name: values[-1] for name, values in result.ledger.items()}
        lines.append(
            (
                order,
                "fixed" if fixed else f"tol {steps:g}",
                int(ledger["steps"]),
                int(ledger["solves"]),
                int(ledger["limited"]),
                f"{cpu:.2f}",
                f"{ou_error(mesh, result.rho[-1]):.2e}",
                f"{ou_error(mesh, result.rho[-1], reference):.2e}",
                f"{ledger['time_error']:.2e}",
                f"{abs(ledger['mass_error']):.0e}",
                f"{ledger['minimum']:.0e}",
            )
        )
    report.say(
        f"## Ornstein-Uhlenbeck on {mesh.n_cells_global} squares until T = 1: orders and steps\n"
    )
    report.table(
        (
            "order",
            "steps",
            "taken",
            "solves",
            "limited",
            "CPU s",
            "L1 error",
            "in time",
            "estimated",
            "mass error",
            "minimum",
        ),
        lines,
    )
    report.say(
        "L1 error: against exact cell means. In time: against the same mesh with a step that is "
        "far smaller; "
        "estimated: what the ledger says.\nCPU: constructor, factorisation and steps, the best "
        f"of {repetitions}.\n"
    )


def ou_alone(case, quick):
    """One run in a process of its own, for its memory: [[n, order, steps, set-up, CPU, error, mass
    error, minimum, iterations of a solve, GB]].
    """
    n, order, steps = map(int, case.split())
    ou_run(ou_mesh(8), order, 2)
    mesh = ou_mesh(n)
    repetitions = 2 if n <= 256 else 1
    with watched() as clock:
        result, cpu = ou_run(mesh, order, steps, repetitions=repetitions)
    ledger = result.ledger
    error = ou_error(mesh, result.rho[-1])
    return [
        [
            n,
            order,
            steps,
            clock.seconds["set-up"] / repetitions,
            cpu,
            error,
            float(abs(ledger["mass_error"][-1])),
            float(ledger["minimum"][-1]),
            float(ledger["iterations"][-1] / ledger["solves"][-1]),
            peak(),
        ]
    ]


def ou_sizes(report, quick, python):
    cases = (
        [(16, 2, 20), (32, 3, 20)]
        if quick
        else [(128, 2, 20), (256, 2, 20), (512, 2, 20), (512, 3, 20), (1024, 2, 40)]
    )
    lines = []
    for case in cases:
        [(n, order, steps, made, cpu, error, lost, low, its, gigabytes)] = child(
            "ou_alone", 1, quick, " ".join(map(str, case))
        )
        lines.append(
            (
                f"fvot, order {order}",
                n * n,
                steps,
                f"{its:.1f}",
                f"{made:.2f}",
                f"{cpu:.2f}",
                f"{error:.2e}",
                f"{lost:.0e}",
                f"{low:.0e}",
                f"{gigabytes:.2f}",
                *OU_TARGETS.get(case, ("-", "-")),
            )
        )
    for label, name, n, steps in (
        [
            (label, name, 16, min(s, 100))
            for label, name, n, s in PEERS
            if n == 128 and name != "pypde"
        ]
        if quick
        else PEERS
    ):
        found = python and peer(python, "peers.py", name, n, steps)
        if found:
            lines.append(
                (
                    f"{label} ({found['version']})",
                    n * n,
                    steps or "-",
                    "-",
                    f"{found['made']:.2f}",
                    f"{found['made'] + found['seconds']:.2f}",
                    f"{found['error']:.2e}",
                    f"{abs(found['mass']):.0e}",
                    f"{found['minimum']:.0e}",
                    "-",
                    "-",
                    "-",
                )
            )
    report.say("## Ornstein-Uhlenbeck: sizes, and other packages in the same run\n")
    report.table(
        (
            "program",
            "cells",
            "steps",
            "iterations",
            "set-up s",
            "CPU s",
            "L1 error",
            "mass error",
            "minimum",
            "peak GB",
            "target: error",
            "CPU s",
        ),
        lines,
    )
    report.say(
        "CPU includes the set-up: LU of fvot (one iteration), the matrix of fplanck, what py-pde "
        "compiles "
        "in every process. FiPy's steps solve with a tolerance of 1e-12 or by LU.\nPeak memory is "
        "that of the whole "
        "process. Left out, as they take more than a minute: explicit steps on 1024 x 1024 "
        "squares, fplanck from "
        "512 x 512 on, FiPy's errors from 512 x 512 (by LU: 256 x 256) on; in a quick run py-pde, "
        "which compiles for "
        "long.\n"
    )


# ---- iterations ----------------------------------------------------------------------------------

DIFFUSIONS, DRIFTS, LENGTHS = (0.25, 0.05, 0.01), (0, 3, 10), (1e-3, 1.0, 1e3, 1e6)
MOST = {"gradient": "25", "rotating": "35"}
SMALL = 20_000  # cells up to which ILU is tried, too: where it fails it takes long to say so
MANY = 50_000  # cells beyond which D, drift and step take fewer values


def solver(quick):
    """Rows of first solves: [mesh, cells, ranks, D, w, s, method, iterations, solves, failed, us
    per cell, us for the scale, what is chosen for 1 and for 100 solves].
    """
    if quick:
        cases = [("squares", 24), ("triangles", 16), ("boxes", 8), ("tetrahedra", 5)]
    elif ranks.size > 1:
        cases = [("squares", 128), ("triangles", 90), ("boxes", 32)]
    else:
        cases = [
            ("squares", 128),
            ("squares", 256),
            ("squares", 512),
            ("triangles", 90),
            ("triangles", 181),
            ("polygons", 126),
            ("polygons", 256),
            ("boxes", 24),
            ("boxes", 64),
            ("tetrahedra", 10),
            ("tetrahedra", 20),
        ]
    rows = []
    for kind, n in cases:
        mesh = MESHES[kind](n)
        few = mesh.n_cells_global > MANY or ranks.size > 1
        for D in (0.25, 0.01) if few else DIFFUSIONS:
            for w in (0, 10) if few else DRIFTS:
                rows += _first_solves(mesh, kind, D, w, LENGTHS[1:] if few else LENGTHS)
    return rows


def _first_solves(mesh, kind, D, w, lengths):
    rates, _ = wells(mesh, D, w)
    n = mesh.n_cells_global
    rows = []
    rho = np.ones(mesh.n_cells)
    closed = np.zeros(mesh.n_faces - mesh.n_inner)
    scales = ColumnScaleCache()
    _, scale = cpu_of(lambda: scales.find(rates))
    for s in lengths:
        chosen = [Resolvent(rates, s, scales=scales).expect(count).names[0] for count in (1, 100)]
        for name in ("amg", "ilu") if n <= SMALL else ("amg",):
            work = Resolvent(rates, s, scales=scales)
            counts = []
            work.names = [name]

            def counting(call, counts=counts):
                def counted(system, *arguments):
                    before = system.iterations
                    x = call(system, *arguments)
                    counts.append(system.iterations - before)
                    return x

                return counted

            with replaced(linalg.System, "__call__", counting):
                failed, cpu = cpu_of(lambda work=work: _fails(lambda: work(rho, closed)))
            work.destroy()
            rows.append(
                [
                    kind,
                    n,
                    ranks.size,
                    D,
                    w,
                    s,
                    name,
                    counts[0],
                    len(counts),
                    failed,
                    1e6 * cpu / n,
                    1e6 * scale / n,
                    *chosen,
                ]
            )
    return rows


def _fails(work):
    try:
        work()
    except fvot.ConvergenceError:
        return True
    return False


def iterations(report, quick):
    rows = everywhere(solver, quick)
    here = [row for row in rows if row[:3] == rows[0][:3]]
    shown = {}
    for *_, D, w, s, name, count, solves, failed, _, _, once, often in here:
        again = f" x{solves}" if solves > 1 else ""
        shown.setdefault((D, w), {}).setdefault(s, {})[name] = (
            "fails" if failed else f"{count}{again}"
        )
        shown[D, w][s]["and"] = f"{once}, {often}"
    order = [name for name in ("amg", "ilu", "and") if name in shown[DIFFUSIONS[0], 0][LENGTHS[0]]]
    report.say(
        f"## Iterations of the first solve on {here[0][1]} squares, by the length of the step: "
        "AMG / ILU / what is "
        "chosen for 1 and for 100 solves\n"
    )
    report.table(
        ("D", "range / D", "rotation", *[f"s = {s:g}" for s in LENGTHS]),
        [
            (D, f"{40 / D:.0f}", w, *[" / ".join(by[s][name] for name in order) for s in LENGTHS])
            for (D, w), by in shown.items()
        ],
    )
    report.say(
        "V = 4 (x^2 - 1)^2 + y^2 on [-2, 2]^2, drift w J x; start: constant. x2: one more solve "
        "for the residual.\n"
    )
    lines = []
    for kind, cells, n_ranks in dict.fromkeys((*row[:3],) for row in rows):
        for drift in "gradient", "rotating":
            mine = [
                row
                for row in rows
                if (*row[:3],) == (kind, cells, n_ranks) and (row[4] > 0) == (drift == "rotating")
            ]
            by = {name: [row for row in mine if row[6] == name] for name in ("amg", "ilu")}
            worst = max(by["amg"], key=lambda row: row[7])
            good = [row for row in by["ilu"] if not row[9]]
            lines.append(
                (
                    kind,
                    cells,
                    n_ranks,
                    drift,
                    len(by["amg"]),
                    worst[7],
                    MOST[drift],
                    f"{worst[3]}, {worst[5]:g}",
                    sum(row[8] > 1 for row in by["amg"]),
                    sum(row[9] for row in by["amg"]),
                    f"{median(row[10] for row in by['amg']):.1f}",
                    f"{max(row[10] for row in by['amg']):.1f}",
                    f"{max(row[11] for row in mine):.1f}",
                    max((row[7] for row in good), default="-"),
                    f"{sum(row[9] for row in by['ilu'])} of {len(by['ilu'])}" if by["ilu"] else "-",
                )
            )
    report.say("## The same on all meshes: the worst of all D, rotations and steps\n")
    report.table(
        (
            "mesh",
            "cells",
            "ranks",
            "drift",
            "cases",
            "AMG",
            "target",
            "at D, s",
            "refined",
            "failed",
            "us/cell",
            "most",
            "scale",
            "ILU",
            "fails",
        ),
        lines,
    )
    report.say(
        "us/cell: matrix, set-up and first solve with AMG, the median and the most; scale: what "
        "finding the scaling of "
        f"the columns takes before, once. Meshes of more than {MANY} cells, and two ranks: D = "
        "0.25 and 0.01, w = 0 and "
        f"10, s >= 1. ILU up to {SMALL} cells, the most among those that did not fail.\n"
    )


# ---- steps ---------------------------------------------------------------------------------------

STEP_TARGETS = {("lu", 1): "100", ("ilu", 1): "250"}
COUNT = 40  # steps of a run


def step(report, quick, repetitions, python):
    """Implicit steps of 0.01 of Ornstein-Uhlenbeck through `solve`, once the factorisation is
    there.
    """
    sides = (16, 32) if quick else (128, 256, 512)
    lines = [
        _steps(n, *case, repetitions)
        for n in sides
        for case in (("lu", 1), ("lu", 2), ("lu", 3), ("ilu", 1), ("ilu", 2))
        if n < 500 or case[1] == 1
    ]
    for label, name, n, steps in [(*SPEED[0][:2], 16, 5)] if quick else SPEED:
        found = python and peer(python, "peers.py", name, n, steps)
        if found:
            lines.append(
                (label, n * n, f"{1e9 * found['seconds'] / steps / n**2:.0f}", "-", "1", *["-"] * 6)
            )
    report.say("## Steps of 0.01, once the first factorisation is there: ns per cell and step\n")
    report.table(
        (
            "program",
            "cells",
            "ns",
            "target",
            "solves",
            "iterations",
            "first time s",
            "PETSc",
            "residuals",
            "free energy",
            "rest",
        ),
        lines,
    )
    report.say(
        f"Ornstein-Uhlenbeck in {COUNT} steps through `solve`, with all checks and the ledger: "
        "the best of "
        f"{repetitions} runs. Solves of a step, iterations of a solve; first time: how much "
        "longer the first run took; "
        "shares of the time. Peers: the mean of 5 steps.\n"
    )


def _steps(n, method, order, repetitions):
    mesh = ou_mesh(n)
    start = gaussian(mesh, 0.0)
    with forced(method):
        equation = fvot.FokkerPlanck(mesh, diffusion=1.0, potential=half_square, order=order)

        def run():
            return equation.solve(start, 0.01 * COUNT, tau=0.01, progress=False)

        _, first = cpu_of(run)
        best = min(cpu_of(run)[1] for _ in range(repetitions))
        with watched() as clock:
            result, whole = cpu_of(run)
    solves, iterations = (int(result.ledger[name][-1]) for name in ("solves", "iterations"))
    share = {what: seconds / whole for what, seconds in clock.seconds.items()}
    shares = [share.get("set-up", 0.0) + share["solve"], share["residuals"], share["free energy"]]
    return (
        f"fvot, {method.upper()}, order {order}",
        n * n,
        f"{1e9 * best / COUNT / n**2:.0f}",
        STEP_TARGETS.get((method, order), "-"),
        f"{solves / COUNT:.1f}",
        f"{iterations / solves:.1f}",
        f"{max(first - best, 0.0):.2f}",
        *[f"{100 * part:.0f} %" for part in (*shares, 1 - sum(shares))],
    )


# ---- a million cells -----------------------------------------------------------------------------


def million(quick):
    """One row: a few steps in 3D on these ranks, by what the time is spent on."""
    n = 12 if quick else 100
    count = 3
    begin = perf_counter()
    mesh = MESHES["boxes"](n)
    seconds = float(ranks.max(perf_counter() - begin))
    _, fastest = wells(mesh, 0.25)
    start = mesh.average(lambda x: np.exp(-2 * ((x - 0.3) ** 2).sum(axis=0)))
    rows = []
    for method in ("", "amg") if ranks.size == 1 else ("",):
        tau = 1e3 / fastest / find_scheme(2).g
        with ExitStack() as stack:
            if method:
                stack.enter_context(forced(method))
            names = stack.enter_context(choices())
            clock = stack.enter_context(watched())
            wall = perf_counter()
            equation, made = cpu_of(
                lambda: fvot.FokkerPlanck(mesh, diffusion=0.25, potential=two_wells)
            )
            result, cpu = cpu_of(
                lambda equation=equation, tau=tau: equation.solve(
                    start, count * tau, tau=tau, progress=False
                )
            )
            wall = float(ranks.max(perf_counter() - wall))
        parts = dict(
            zip(
                clock.seconds,
                map(float, ranks.max(np.array([clock.seconds[what] for what in clock.seconds]))),
            )
        )
        ledger = {name: float(values[-1]) for name, values in result.ledger.items()}
        how = f"{names[0]} ({'forced' if method else 'chosen'})"
        rows.append(
            [mesh.n_cells_global, ranks.size, how, seconds, made + cpu, wall, parts, ledger, peak()]
        )
    return rows


def large(report, quick):
    rows = child("million", 1, quick) + child("million", 2, quick)
    head = ["", *[f"{n_ranks} rank{'s' * (n_ranks > 1)}, {how}" for _, n_ranks, how, *_ in rows]]
    lines = []
    names = sorted({name for row in rows for name in row[6]} - {"set-up", "solve"})
    table = {
        "mesh, wall s": [f"{row[3]:.1f}" for row in rows],
        "CPU s": [f"{row[4]:.1f}" for row in rows],
        "wall s": [f"{row[5]:.1f}" for row in rows],
    }
    for name in "set-up", "solve":
        table[f"PETSc: {name}"] = [f"{row[6].get(name, 0.0):.2f}" for row in rows]
    for name in names:
        table[name] = [f"{row[6].get(name, 0.0):.2f}" for row in rows]
    table["rest"] = [f"{row[4] - sum(row[6].values()):.2f}" for row in rows]
    table["outside PETSc (target: 20 %)"] = [
        f"{100 - 100 * (row[6].get('set-up', 0.0) + row[6].get('solve', 0.0)) / row[4]:.0f} %"
        for row in rows
    ]
    for name, digits in (
        ("solves", ".0f"),
        ("iterations", ".0f"),
        ("limited", ".0f"),
        ("mass_error", ".0e"),
        ("minimum", ".0e"),
    ):
        table[name.replace("_", " ")] = [format(row[7][name], digits) for row in rows]
    table["peak memory of a rank, GB"] = [f"{row[8]:.2f}" for row in rows]
    lines = [(name, *values) for name, values in table.items()]
    report.say(
        f"## {rows[0][0]} boxes: three steps of order 2, stages 1000 times the time in which a "
        "cell is emptied\n"
    )
    report.table(head, lines)
    report.say(
        "CPU seconds of the slowest rank, from the constructor to the ledger; D = 0.25. The "
        "second method works after "
        "the first in the same process: memory is the most of both.\n"
    )


# ---- what the choice of the solver assumes -------------------------------------------------------

STIFF = 1.0, 30.0, 1e3, 1e5
USES = 1, 4, 20, 200
TOLERATED = 1.5  # times the fastest


def costs(quick):
    """Rows: [dim, cells, ranks, what, stiffness, steepness, {method: (set-up, solve, iterations) in
    us per cell}].
    """
    if quick:
        cases = [("squares", 24), ("boxes", 8), ("intervals", 400)]
    elif ranks.size > 1:
        cases = [("squares", 256), ("squares", 512), ("boxes", 34)]
    else:
        cases = [
            ("squares", 256),
            ("squares", 512),
            ("squares", 1000),
            ("intervals", 10**5),
            ("boxes", 20),
            ("boxes", 34),
            ("boxes", 60),
        ]
    rows = []
    for kind, n in cases:
        mesh = MESHES[kind](n)
        problems = [("flat", 0.25, 0), ("steep", 0.01, 0), ("rotating", 0.05, 3)]
        if mesh.dim == 1 or mesh.n_cells_global > MANY * 2:
            problems = problems[: 2 if mesh.n_cells_global < 6 * MANY else 1]
        factorised = None
        for what, D, w in problems:
            rates, fastest = wells(mesh, D, w)
            for stiffness in STIFF if mesh.n_cells_global < 6 * MANY else STIFF[::2]:
                found = {}
                for name in linalg.estimate_costs(
                    mesh.n_cells_global, mesh.dim, ranks.size, stiffness, rates.steepness()
                ):
                    if linalg.find_method(name, mesh.dim, ranks.size) is None:
                        continue
                    if name == "lu" and factorised:  # values do not matter to it
                        found[name] = factorised
                        continue
                    found[name] = _cost(rates, stiffness / fastest, name)
                    factorised = found[name] if name == "lu" else factorised
                rows.append(
                    [
                        mesh.dim,
                        mesh.n_cells_global,
                        ranks.size,
                        what,
                        stiffness,
                        rates.steepness(),
                        found,
                    ]
                )
    return rows


def _cost(rates, s, name):
    """(us per cell to set up, us per cell and solve, iterations) of a `Resolvent`, or None where it
    fails: CPU.
    """
    mesh = rates.mesh
    work = Resolvent(rates, s, scales=ColumnScaleCache())
    rho = mesh.average(lambda x: np.exp(-2 * ((x - 0.3) ** 2).sum(axis=0)))
    closed = np.zeros(mesh.n_faces - mesh.n_inner)
    seconds = []
    work.names = [name]
    try:
        for _ in range(3):
            before = work.iterations
            rho, cpu = cpu_of(lambda rho=rho: work(rho, closed))
            seconds.append(1e6 * cpu / mesh.n_cells_global)
    except fvot.ConvergenceError:
        return None
    finally:
        work.destroy()
    solve = min(seconds[1:])
    return max(seconds[0] - solve, 0.0), solve, work.iterations - before


def constants(report, quick):
    rows = everywhere(costs, quick)
    lines = {}
    compared = []
    factors = []
    for dim, n, n_ranks, what, stiffness, steepness, found in rows:
        guessed = linalg.estimate_costs(n, dim, n_ranks, stiffness, steepness, what != "rotating")
        for name, cost in found.items():
            lines.setdefault((dim, n, n_ranks, "all" if name == "lu" else what, name), {})[
                stiffness
            ] = cost, guessed[name]
        known = {name: cost for name, cost in found.items() if cost}
        chosen = []
        for uses in USES:
            total = {name: setup + uses * solve for name, (setup, solve, _) in known.items()}
            first = next(name for name in linalg.rank_methods(guessed, uses) if name in found)
            best = min(total, key=total.get)
            factors.append(total[first] / total[best] if first in total else np.inf)
            chosen.append(first if first == best else f"{first}: {factors[-1]:.1f} x {best}")
        if max(factors[-len(USES) :]) > TOLERATED:
            compared.append((dim, n, n_ranks, what, f"{stiffness:g}", *chosen))
    report.say(
        "## What the choice of the solver assumes: us per cell, measured / by `estimate_costs`\n"
    )
    report.table(
        (
            "dim",
            "cells",
            "ranks",
            "case",
            "method",
            "set-up",
            *[f"solve, stiffness {s:g}" for s in STIFF],
        ),
        [
            (*case, *_set_up(by), *[_solve(*by[s]) if s in by else "-" for s in STIFF])
            for case, by in lines.items()
        ],
    )
    report.say(
        "In parentheses: iterations. Flat: D = 0.25; steep: D = 0.01; rotating: D = 0.05 with w = "
        "3, whose set-up of "
        "AMG contains the search for the scaling; the set-up is the median of all stiffnesses. A "
        "solve is everything "
        "that an implicit Euler step does: CPU of the slowest rank, over all cells.\n"
    )
    bad = sum(factor > TOLERATED for factor in factors)
    report.say(
        "## The method that is chosen, by the number of solves: how many times as long as with "
        "the fastest it takes\n"
    )
    report.table(
        ("dim", "cells", "ranks", "case", "stiffness", *[f"{uses} solves" for uses in USES]),
        compared or [["-"] * (5 + len(USES))],
    )
    report.say(
        f"Only rows with a factor above {TOLERATED}, which {bad} of {len(factors)} cases have "
        "(inf: the chosen one "
        f"fails, and the next takes over). Of all: median {median(factors):.2f}, geometric mean "
        f"{np.exp(np.mean(np.log(np.minimum(factors, 100)))):.2f}, most {max(factors):.1f}.\n"
    )


def _set_up(by):
    measured = [cost[0] for cost, _ in by.values() if cost]
    return [
        f"{median(measured):.2f} / {next(iter(by.values()))[1][0]:.2f}" if measured else "fails"
    ]


def _solve(cost, guessed):
    return f"{cost[1]:.2f} / {guessed[1]:.2f} ({cost[2]})" if cost else f"fails / {guessed[1]:.2f}"


# ---- the program ---------------------------------------------------------------------------------


def main(part="all", repetitions=2, peer_python=PEER_PYTHON, out="", quick=False, rows="", case=""):
    """Measure *part* (ou, solver, step, million, costs or all); write the tables to the file *out*,
    too. quick: small, for a test. rows, case: for the processes that this one starts.
    """
    if rows:
        measured = {
            "solver": solver,
            "million": million,
            "costs": costs,
            "ou_alone": lambda q: ou_alone(case, q),
        }[part](quick)
        return hand_over(measured, rows)
    if ranks.size > 1:
        raise fvot.InputError("start this on one rank: it starts what runs on two")
    report = machine.Report()
    several = 1 if quick else repetitions
    report.say("# Fokker-Planck equation: speed and errors\n")
    report.say(f"One run of `benchmarks/fokker_planck.py` on {strftime('%d %B %Y')}.\n")
    report.table(("machine", ""), machine.rows())
    python = peers_of(report, peer_python) if part in ("all", "ou", "step") else ""
    parts = {
        "ou": lambda: (ou_orders(report, quick, several), ou_sizes(report, quick, python)),
        "solver": lambda: iterations(report, quick),
        "step": lambda: step(report, quick, several, python),
        "million": lambda: large(report, quick),
        "costs": lambda: constants(report, quick),
    }
    report.measure(part, parts)
    report.write(out)


if __name__ == "__main__":
    fvot.run(main)
