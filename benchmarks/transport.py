"""How fast and how right is dynamical optimal transport? Certified gaps, where the time goes,
growth, errors, other methods.

    python benchmarks/transport.py --out benchmarks/RESULTS_transport.md
    python benchmarks/transport.py --part where             # or: targets, growth, errors, peers
    python benchmarks/transport.py --peer-python somewhere/bin/python        # a Python that has POT
    python benchmarks/transport.py --quick

Each run whose time or memory counts is alone in a process, which the program itself starts; on two
ranks, too.
"""

import sys
import warnings
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from statistics import median
from time import perf_counter, process_time, strftime
from typing import NamedTuple

import machine
import numpy as np
import processes
import skewed_meshes
from fokker_planck import replaced
from machine import ranks, timed
from peers_transport import square, value
from processes import PEER_PYTHON, hand_over, peak, peer, peers_of
from scipy import fft

import fvot
from fvot.benamou_brenier import nested_iteration
from fvot.benamou_brenier.poisson_cosine import CosinePoisson
from fvot.benamou_brenier.poisson_multigrid import MultigridPoisson
from fvot.benamou_brenier.projection import State

# ---- meshes and problems -------------------------------------------------------------------------

WALL = 0.5, 0.53125  # x between which there is nothing,
GAP = 0.6875, 0.875  # but for these y
DISCS = (0.25, 0.25), (0.75, 0.25)
RADIUS = 0.1


def wall(n):
    """n x n squares, n a multiple of 32, without a wall that has a gap."""
    i = np.arange((n + 1) ** 2).reshape(n + 1, n + 1)
    quads = np.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]])
    x, y = (np.indices((n, n)) + 0.5) / n
    kept = (x < WALL[0]) | (x > WALL[1]) | (y > GAP[0]) & (y < GAP[1])
    points = np.stack(np.meshgrid(*[np.linspace(0, 1, n + 1)] * 2, indexing="ij")).reshape(2, -1)
    used, quads = np.unique(quads[:, kept].T, return_inverse=True)
    return fvot.Mesh.from_cells(points[:, used], [("quad", quads.reshape(-1, 4))])


# The cases' n: cells along a side, but their number for polygons; and what a warm-up takes.
MESHES = {
    "squares": lambda n: fvot.Mesh.rectangle((0, 0), (1, 1), (n, n)),
    "triangles": lambda n: fvot.Mesh.triangles((0, 0), (1, 1), n),
    "polygons": lambda n: fvot.Mesh.voronoi((0, 0), (1, 1), n),
    "boxes": lambda n: fvot.Mesh.box((0, 0, 0), (1, 1, 0.5), (n, n, n // 2)),
    "cubes": lambda n: fvot.Mesh.box((0, 0, 0), (1, 1, 1), (n, n, n)),
    "wall": wall,
}
SMALL = {"squares": 32, "triangles": 20, "polygons": 600, "boxes": 16, "cubes": 16, "wall": 32}
SIZES = {"boxes": (1, 1, 0.5), "cubes": (1, 1, 1)}


class Case(NamedTuple):
    """What is solved: a problem on a mesh, steps in time, the gap that is asked for, ranks."""

    problem: str
    kind: str
    n: int
    n_steps: int
    tol: float = 1e-3
    ranks: int = 1

    def __str__(self):
        return " ".join(map(str, self))

    @classmethod
    def of(cls, text):
        problem, kind, n, n_steps, tol, n_ranks = text.split()
        return cls(problem, kind, int(n), int(n_steps), float(tol), int(n_ranks))


def densities(problem, mesh):
    if problem == "discs":
        return [
            mesh.density(lambda x, at=at: np.hypot(x[0] - at[0], x[1] - at[1]) < RADIUS)
            for at in DISCS
        ]
    return [mesh.density(lambda x, end=end: value(problem, end, x)) for end in (0, 1)]


@lru_cache
def exact(problem, kind):
    """W2^2 without a mesh."""
    return _round_the_wall() if problem == "discs" else square(problem, SIZES.get(kind, (1, 1)))


def _round_the_wall(n=1000):
    """All mass passes both corners below the gap, of which each half sees one: far pairs with near,
    so that ab is least.
    """
    r = np.sqrt((np.arange(n) + 0.5) / n)[:, None] * RADIUS
    turn = 2 * np.pi * (np.arange(n) + 0.5) / n
    a, b = (
        np.sort(np.hypot(x + r * np.cos(turn) - corner, y + r * np.sin(turn) - GAP[0]), axis=None)
        for (x, y), corner in zip(DISCS, WALL)
    )
    return ((a + WALL[1] - WALL[0] + b[::-1]) ** 2).mean()


# ---- one run, alone in a process -----------------------------------------------------------------


def solved(case, mesh):
    """What a run takes and reaches, as a dict: from the constructor to the certified path."""
    rho = densities(case.problem, mesh)
    ranks.wait()
    cpu = [process_time()]
    wall = [perf_counter()]
    transport = fvot.BenamouBrenier(mesh, case.n_steps, tol=case.tol)
    cpu.append(process_time())
    wall.append(perf_counter())
    try:
        path = transport.solve(*rho, progress=False)
    except fvot.ConvergenceError as error:
        path = error.result
    ranks.wait()
    cpu.append(process_time())
    wall.append(perf_counter())
    made, cpu, wall = ranks.max(np.array([wall[1] - wall[0], cpu[2] - cpu[1], wall[2] - wall[1]]))
    return dict(
        cells=mesh.n_cells_global,
        made=float(made),
        cpu=float(cpu),
        wall=float(wall),
        gap=float(path.gap),
        iterations=path.iterations,
        cost=float(path.cost),
        lower=float(path.lower_bound),
    )


def alone(case):
    """The same with the memory that mesh and run take, in MB, beyond what a small run of the same
    kind has needed.
    """
    solved(case._replace(n_steps=8, tol=1e-2), MESHES[case.kind](SMALL[case.kind]))
    before = peak()
    found = solved(case, MESHES[case.kind](case.n))
    return found | dict(mb=1e3 * (peak() - before))


def child(case):
    """What `alone` has measured in a process of its own, or None where it could not."""
    try:
        return processes.child(__file__, case.ranks, case=str(case))
    except processes.Failed as error:
        fvot.say(f"{case} failed: {error}\n")
        return None


DONE = {}  # Case: what `solved` or `alone` has measured


def measured(case):
    """What `alone` has measured; once for all tables."""
    if case not in DONE:
        DONE[case] = child(case)
    return DONE[case]


# ---- targets -------------------------------------------------------------------------------------

# case: most seconds, most MB
TARGETS = {
    Case("Gaussians", "squares", 64, 32): (1.2, "-"),
    Case("bumps", "squares", 64, 32): (1.2, "-"),
    Case("squares", "squares", 64, 32): (1.2, "-"),
    Case("Gaussians", "squares", 128, 32): (4, 200),
    Case("Gaussians", "squares", 128, 32, 2.3e-4): (6.5, "-"),
    Case("bumps", "squares", 128, 32): (7, "-"),
    Case("squares", "squares", 128, 32): (7, "-"),
    Case("smooth", "squares", 128, 32, 1e-5): (3, "-"),
    Case("smooth", "squares", 128, 32, 1e-8): (10, "-"),
    Case("Gaussians", "squares", 256, 64): (50, 1200),
    Case("Gaussians", "triangles", 90, 32): (12, "-"),
    Case("Gaussians", "triangles", 90, 32, ranks=2): (7, "-"),
    Case("Gaussians", "polygons", 16_000, 32): (12, "-"),
    Case("Gaussians", "polygons", 16_000, 32, ranks=2): (7, "-"),
    Case("Gaussians", "triangles", 180, 32): (60, "-"),
    Case("Gaussians", "boxes", 32, 16): (6, "-"),
    Case("Gaussians", "cubes", 48, 16): (60, "-"),
    Case("narrow", "squares", 64, 32, 1.2e-3): (3, "-"),
    Case("discs", "wall", 64, 32, 2e-3): (4, "-"),
}
QUICK = [
    Case("Gaussians", "squares", 32, 16),
    Case("bumps", "squares", 32, 16),
    Case("squares", "squares", 32, 16),
    Case("smooth", "squares", 32, 16, 1e-5),
    Case("Gaussians", "triangles", 22, 16),
    Case("Gaussians", "triangles", 22, 16, ranks=2),
    Case("Gaussians", "polygons", 1000, 16),
    Case("Gaussians", "boxes", 16, 8),
    Case("narrow", "squares", 32, 16, 1e-2),
    Case("discs", "wall", 32, 16, 1e-2),
]


def targets(report, quick):
    lines = []
    missed = []
    for case in QUICK if quick else TARGETS:
        found = measured(case)
        (seconds, mb) = TARGETS.get(case, ("-", "-"))
        name = (
            case.problem,
            case.kind,
            found["cells"] if found else "?",
            case.n_steps,
            case.ranks,
            f"{case.tol:.1e}",
        )
        if found is None:
            lines.append((*name, *["-"] * 5, seconds, "failed", "-", mb, "-", "-"))
            missed.append(f"{case}: failed")
            continue
        late, large = (
            limit != "-" and found[what] > limit for what, limit in (("cpu", seconds), ("mb", mb))
        )
        verdict = [
            what
            for what, bad in (("gap", found["gap"] > case.tol), ("time", late), ("memory", large))
            if bad
        ]
        missed += [f"{case}: {', '.join(verdict)}"] * bool(verdict)
        lines.append(
            (
                *name,
                f"{found['gap']:.1e}",
                found["iterations"],
                f"{found['made']:.2f}",
                f"{found['cpu']:.2f}",
                f"{found['wall']:.2f}",
                seconds,
                ", ".join(verdict) or ("met" if case in TARGETS else "-"),
                f"{found['mb']:.0f}",
                mb,
                *errors_of(case, found),
            )
        )
    report.say("## Certified gaps: time and memory\n")
    report.table(
        (
            "problem",
            "mesh",
            "cells",
            "steps",
            "ranks",
            "gap asked",
            "gap",
            "iterations",
            "constructor s",
            "CPU s",
            "wall s",
            "target s",
            "verdict",
            "MB",
            "target MB",
            "error of cost",
            "of lower bound",
        ),
        lines,
    )
    report.say(
        "Iterations: on the mesh itself. CPU and wall: all levels and the certificates, without "
        "the constructor, of the "
        "slowest rank; the target is for CPU. MB: the most memory of a rank, mesh included, "
        "beyond that of a process "
        "that has solved something small. Errors: relative to the exact W2^2.\n"
    )
    report.say("Missed: " + ("; ".join(missed) if missed else "nothing") + ".\n")


def errors_of(case, found):
    return [
        f"{found[bound] / exact(case.problem, case.kind) - 1:+.1e}" for bound in ("cost", "lower")
    ]


# ---- where the time goes -------------------------------------------------------------------------

PARTS = "sweep", "Poisson set-up", "Poisson solve", "lower bound", "upper bound"


class Watch:
    """CPU seconds of every call of the solver's parts, by part and number of cells; the last object
    that made it.
    """

    def __init__(self):
        self.calls = {}
        self.object = {}

    def of(self, part, work, cells):
        def timed_work(first, /, *arguments, **options):
            begin = process_time()
            result = work(first, *arguments, **options)
            place = part, cells(first, *arguments)
            self.calls.setdefault(place, []).append(process_time() - begin)
            self.object[place] = first
            return result

        return timed_work


@contextmanager
def watched():
    """A `Watch` of the solver's parts, while the block runs."""
    watch = Watch()
    hooks = [
        (State, "sweep", "sweep", lambda state, phi, *_: len(phi)),
        (nested_iteration, "lower_bound", "lower bound", lambda disc, *_: disc.mesh.n_cells),
        (nested_iteration, "upper_bound", "upper bound", lambda disc, *_: disc.mesh.n_cells),
    ]
    for poisson in CosinePoisson, MultigridPoisson:
        hooks += [
            (poisson, "__init__", "Poisson set-up", lambda _, disc, *__: disc.mesh.n_cells),
            (poisson, "__call__", "Poisson solve", lambda _, f: len(f)),
        ]
    with ExitStack() as stack:
        for owner, name, part, cells in hooks:
            stack.enter_context(
                replaced(
                    owner, name, lambda old, part=part, cells=cells: watch.of(part, old, cells)
                )
            )
        yield watch


def sweep_bytes(state, one):
    """phi is read, the right-hand side written, the state read and written; one: bytes of an array
    (n_cells, N + 1).
    """
    return 2 * one + 2 * (state.z_a.nbytes + state.l.nbytes + state.z_b.nbytes)


def poisson_bytes(poisson, one):
    """Each array once in each pass: the time basis twice, and between them

    cosine transforms : each axis but the first twice, and elimination along that one
    multigrid : a residual, the V-cycle, one step of conjugate gradients (see the list below)
    """
    if isinstance(poisson, CosinePoisson):
        return (2 + 2 + 6 + 4 * (len(poisson.shape) - 1)) * one
    # f V and phi V^T 4; residual 3; sweep 2, residual 3, restriction 1, correction 2, residual 3,
    # sweep 3; products 2 + 2, image 2, step 6
    matrix = sum(array.nbytes for array in poisson.pencil._entries)
    total = 33 * one + 4 * matrix
    cycle = poisson.cycle
    for level, (grid, work) in enumerate(zip(cycle.grids, cycle.work)):
        total += _matrix_bytes(grid.prolong) + _matrix_bytes(grid.restrict)
        if (
            level
        ):  # written and read by the finer one; sweeps, residuals, restriction and correction 14
            total += 16 * work[0].nbytes + 2 * _matrix_bytes(grid.matrix)
    return total


def _matrix_bytes(matrix):
    return matrix.start.nbytes + matrix.index.nbytes + matrix.value.nbytes


def two_transforms(mesh, n_nodes, repetitions):
    """CPU seconds of a 3-D (in space-time) cosine transform and back, of about as many numbers; and
    how many.
    """
    side = fft.next_fast_len(round(mesh.n_cells**0.5), real=True)
    shape = (*(mesh.block.grid if mesh.block is not None else (side, side)), n_nodes)
    u = np.random.default_rng(0).random(shape)

    def there_and_back():
        fft.idctn(fft.dctn(u, norm="ortho", overwrite_x=True), norm="ortho", overwrite_x=True)

    return timed(there_and_back, repetitions)[0].min() * mesh.n_cells * n_nodes / u.size


def where(report, quick):
    cases = (
        [Case("Gaussians", "squares", 32, 16), Case("Gaussians", "triangles", 22, 16)]
        if quick
        else [Case("Gaussians", "squares", 128, 32), Case("Gaussians", "triangles", 90, 32)]
    )
    bandwidth = machine.bandwidth(8 if quick else 512)
    lines = []
    tables = []
    for case in cases:
        solved(case._replace(n_steps=8, tol=1e-2), MESHES[case.kind](SMALL[case.kind]))
        mesh = MESHES[case.kind](case.n)
        with watched() as watch:
            found = solved(case, mesh)
        one = 8 * mesh.n_cells * (case.n_steps + 1)
        n = mesh.n_cells
        floors = {
            "sweep": sweep_bytes(watch.object["sweep", n], one),
            "Poisson solve": poisson_bytes(watch.object["Poisson solve", n], one),
        }
        taken = {part: median(watch.calls[part, n]) for part in floors}
        transforms = two_transforms(mesh, case.n_steps + 1, 3 if quick else 9)
        taken["both"] = sum(taken.values())
        floors["both"] = sum(floors.values())
        for part in floors:
            lines.append(
                (
                    case.kind,
                    f"{n} x {case.n_steps}",
                    part,
                    f"{1e3 * taken[part]:.2f}",
                    f"{8e9 * taken[part] / one:.1f}",
                    f"{floors[part] / 1e6:.1f}",
                    f"{1e3 * floors[part] / bandwidth:.2f}",
                    f"{taken[part] * bandwidth / floors[part]:.1f}",
                    f"{1e3 * transforms:.2f}",
                )
            )
        tables.append((case, found, watch))
    report.say("## An iteration on the mesh itself: CPU ms\n")
    report.table(
        (
            "mesh",
            "cells x steps",
            "part",
            "ms",
            "ns per unknown",
            "MB",
            "floor ms",
            "times the floor",
            "two 3-D DCTs ms",
        ),
        lines,
    )
    report.say(
        "Medians of a run to a gap of 1e-3 (Gaussians). Unknown: one number of phi. MB: what "
        "each part must read and "
        f"write, each array once in each pass; floor: by the bandwidth, {bandwidth / 1e9:.1f} "
        "GB/s. DCTs: of as many "
        "numbers as phi has, in space and time, there and back.\n"
    )
    for case, found, watch in tables:
        _shares(report, case, found, watch)


def _shares(report, case, found, watch):
    whole = found["cpu"]
    n = found["cells"]
    lines = []
    rest = found["cpu"]
    for part in PARTS:
        here = watch.calls.get((part, n), [])
        coarse = sum(
            sum(calls)
            for (what, cells), calls in watch.calls.items()
            if what == part and cells != n
        )
        rest -= sum(here) + coarse
        lines.append(
            (
                part,
                len(here),
                f"{sum(here):.2f}",
                f"{coarse:.2f}",
                f"{100 * (sum(here) + coarse) / whole:.0f} %",
            )
        )
    lines += [
        ("rest", "-", f"{rest:.2f}", "-", f"{100 * rest / whole:.0f} %"),
        ("all", "-", f"{whole:.2f}", "-", "100 %"),
    ]
    report.say(f"## The whole run on {n} {case.kind} x {case.n_steps}: CPU seconds\n")
    report.table(("part", "calls", "on the mesh itself", "coarser levels", "of all"), lines)
    report.say(
        f"{found['iterations']} iterations on the mesh itself. The two last lines are of all "
        "levels, without the "
        f"constructor, which took {found['made']:.2f} s.\n"
    )


# ---- growth --------------------------------------------------------------------------------------

MOST_GROWTH = "1.5"


def growth(report, quick):
    sizes = [(32, 16), (64, 32), (128, 32)] + [(256, 64)] * (not quick)
    lines = []
    for problem in "smooth", "Gaussians":
        before = None
        for n, n_steps in sizes:
            found = measured(Case(problem, "squares", n, n_steps))
            if found is None:
                continue
            ratio = f"{found['iterations'] / before:.2f}" if before else "-"
            lines.append(
                (
                    problem,
                    n * n,
                    n_steps,
                    f"{found['gap']:.1e}",
                    found["iterations"],
                    ratio,
                    MOST_GROWTH if before else "-",
                    f"{found['cpu']:.2f}",
                    f"{1e9 * found['cpu'] / (n * n * (n_steps + 1)):.0f}",
                )
            )
            before = found["iterations"]
    report.say("## Growth: iterations on the mesh itself to a gap of 1e-3\n")
    report.table(
        (
            "problem",
            "cells",
            "steps",
            "gap",
            "iterations",
            "ratio",
            "target",
            "CPU s",
            "ns per unknown",
        ),
        lines,
    )
    report.say("CPU: all levels and the certificates.\n")


# ---- errors --------------------------------------------------------------------------------------


def errors(report, quick):
    kinds = {"squares": (32, 64, 128), "triangles": (22, 45, 90), "polygons": (1000, 4000, 16_000)}
    kinds = {kind: sizes[:1] if quick else sizes for kind, sizes in kinds.items()}
    lines = []
    for kind, sizes in kinds.items():
        cases = {}
        for n, n_steps in zip(sizes, (16, 32, 32)):
            mine = {
                problem: Case(problem, kind, n, n_steps, 1e-4 if problem == "smooth" else 1e-3)
                for problem in ("smooth", "Gaussians", "bumps", "squares")
            }
            missing = [case for case in mine.values() if not DONE.get(case)]
            mesh = MESHES[kind](n) if missing else None
            for case in missing:
                DONE[case] = solved(case, mesh)
            for problem, case in mine.items():
                cases.setdefault(problem, []).append(case)
        for problem, mine in cases.items():
            found = [DONE[case] for case in mine]
            lines.append(
                (
                    problem,
                    kind,
                    ", ".join(str(row["cells"]) for row in found),
                    *[
                        ", ".join(f"{row[bound] / exact(problem, kind) - 1:+.1e}" for row in found)
                        for bound in ("cost", "lower")
                    ],
                    ", ".join(str(row["iterations"]) for row in found),
                    ", ".join(f"{row['cpu']:.1f}" for row in found),
                )
            )
    report.say("## Errors of W2^2: relative, signed\n")
    report.table(
        (
            "problem",
            "mesh",
            "cells",
            "error of cost",
            "error of lower bound",
            "iterations",
            "CPU s",
        ),
        lines,
    )
    report.say(
        "Steps in time: 16, 32, 32. Gaps: at most 1e-4 for smooth densities, else 1e-3: the "
        "discrete W2^2 lies between "
        "both. Densities live on cells (squares), pairs (triangles) and patches of four "
        "(polygons).\n"
    )


# ---- any mesh ------------------------------------------------------------------------------------

# W2^2 of the smooth problem along z, 1 + .4 cos pi z to 1 - .4 cos pi z, is added in space.
FLAT = {
    "squares": lambda n: skewed_meshes.quadrilaterals(n, lambda x, y: (x, y)),
    "right triangles": skewed_meshes.right_triangles,
    "irregular triangles": skewed_meshes.irregular_triangles,
    "mapped quadrilaterals": skewed_meshes.mapped,
    "moved quadrilaterals": lambda n: skewed_meshes.moved(n, 0.25),
    "hanging nodes": skewed_meshes.hanging_nodes,
    "Voronoi polygons": skewed_meshes.voronoi,
}
SOLID = {
    "moved hexahedra": skewed_meshes.hexahedra,
    "cubes in six": skewed_meshes.cubes_in_six,
}
MOST_TIMES = {"plane": 4, "space": 7}


def heights(end, x):
    """The smooth problem of the plane, times a cosine along z."""
    along_z = 1 + (0.4 - 0.8 * end) * np.cos(np.pi * x[2])
    return value("smooth", end, x[:2]) * along_z


@lru_cache
def rise(n=20_000):
    """W2^2 of both densities along z: int (F0^-1 - F1^-1)^2."""
    z = (np.arange(n) + 0.5) / n
    ends = np.linspace(0, 1, 10 * n + 1)
    wave = 0.4 / np.pi * np.sin(np.pi * ends)
    return ((np.interp(z, ends + wave, ends) - np.interp(z, ends - wave, ends)) ** 2).mean()


def iteration_time(mesh, n_steps, rho, scheme):
    """(`Geodesic`, CPU seconds of an iteration on the mesh itself: the least of both halves)."""
    with warnings.catch_warnings(), watched() as watch:
        warnings.simplefilter("ignore")
        transport = fvot.BenamouBrenier(mesh, n_steps, tol=1e-4, scheme=scheme)
        try:
            path = transport.solve(*rho, progress=False)
        except fvot.ConvergenceError as error:
            path = error.result
    halves = []
    for part in "sweep", "Poisson solve":
        largest = max(cells for name, cells in watch.calls if name == part)
        halves.append(min(watch.calls[part, largest]))
    return path, sum(halves)


def any_mesh(report, quick):
    """Errors and times of an iteration with fluxes to corners; a part of `corners.py`."""
    lines = []
    for kind, make in (FLAT | SOLID).items():
        in_space = kind in SOLID
        sizes = (6, 12) if in_space else (16, 32)
        if quick:
            sizes = (3,) if in_space else (8,)
        n_steps = 6 if in_space else 8
        error = []
        for n in sizes:
            mesh = fvot.Mesh.from_cells(*make(n), strict=False)
            if in_space:
                rho = [mesh.density(lambda x, end=end: heights(end, x)) for end in (0, 1)]
            else:
                rho = densities("smooth", mesh)
            path, seconds = iteration_time(mesh, n_steps, rho, "corners")
            exact_square = square("smooth", (1, 1)) + (rise() if in_space else 0)
            error.append(path.cost / exact_square - 1)
        two_point, two_point_seconds = iteration_time(mesh, n_steps, rho, "two_point")
        order = np.log2(abs(error[0] / error[-1])) if len(sizes) > 1 else np.nan
        ratio = seconds / two_point_seconds
        target = MOST_TIMES["space" if in_space else "plane"]
        lines.append(
            (
                kind,
                mesh.n_cells,
                ", ".join(f"{each:+.1e}" for each in error),
                f"{order:.2f}",
                f"{path.gap:.0e}",
                path.iterations,
                f"{two_point.cost / exact_square - 1:+.1e}",
                f"{seconds * 1e3:.2f}",
                f"{ratio:.1f}",
                target,
                "met" if ratio <= target else "missed",
            )
        )
    report.say("## Fluxes to corners, on any mesh: smooth densities\n")
    report.table(
        (
            "mesh",
            "cells",
            "error of cost",
            "order",
            "gap",
            "iterations",
            "two-point",
            "iteration ms",
            "times two-point",
            "target",
            "verdict",
        ),
        lines,
    )
    report.say(
        "Errors relative, of two sizes; two-point: that of scheme='two_point' on the finer one. "
        "Steps in time: 8, in space 6; tol 1e-4. An iteration: the least CPU time of both halves; "
        "squares are taken as quadrilaterals, with multigrid.\n"
    )


# ---- other methods -------------------------------------------------------------------------------


STEPS = 0.03, 0.1, 0.3  # sigma: the best one, of these, differs from problem to problem
CLASSICAL = 200  # iterations


def peers(report, quick, python):
    sides = {16: 8, 32: 16} if quick else {32: 16, 64: 32}
    lines = []
    for problem in (
        ("Gaussians", "squares") if quick else ("smooth", "Gaussians", "bumps", "squares")
    ):
        for n, n_steps in sides.items():
            case = Case(problem, "squares", n, n_steps)
            found = measured(case)
            if found:
                lines.append(
                    (
                        problem,
                        n * n,
                        f"fvot, {n_steps} steps, certified",
                        f"{found['cpu']:.2f}",
                        *errors_of(case, found),
                    )
                )
            others = [
                (
                    f"PDHG, {n_steps} steps, sigma = {sigma}",
                    sys.executable,
                    "pdhg",
                    problem,
                    n,
                    n_steps,
                    sigma,
                    CLASSICAL,
                )
                for sigma in STEPS
            ]
            if python:
                others.append(("POT emd", python, "emd", problem, n))
                others += [
                    (f"POT sinkhorn_log {weight}", python, "sinkhorn", problem, n, weight)
                    for weight in ("1e-2", "2e-3")
                    if n <= 32
                ]
            for name, *arguments in others:
                row = peer(arguments[0], "peers_transport.py", *arguments[1:])
                if row:
                    version = f" ({row['version']})" if row["version"] else ""
                    lines.append(
                        (
                            problem,
                            n * n,
                            name + version,
                            f"{row['seconds']:.2f}",
                            f"{row['cost'] / exact(problem, 'squares') - 1:+.1e}",
                            "-",
                        )
                    )
    report.say("## Other methods, on the unit square\n")
    report.table(
        ("problem", "cells", "method", "CPU s", "error of W2^2", "of the lower bound"), lines
    )
    report.say(
        "fvot: to a certified gap of 1e-3, without the constructor. PDHG: the classical "
        "primal-dual method on a "
        f"staggered grid, with numpy and cosine transforms, {CLASSICAL} iterations with steps "
        "sigma and 1 / sigma, from "
        "nothing; it knows no bounds. POT: static transport between cell centres, exactly, or "
        "with an entropy of this "
        "weight (on 64 x 64 that takes minutes): W2^2 without a path, on convex domains only.\n"
    )


# ---- the program ---------------------------------------------------------------------------------


def main(part="all", peer_python=PEER_PYTHON, out="", quick=False, rows="", case=""):
    """Measure *part* (targets, where, growth, errors, peers or all); write the tables to the file
    *out*, too. quick: small, for a test. rows, case: for the processes that this one starts.
    """
    if rows:
        return hand_over(alone(Case.of(case)), rows)
    if ranks.size > 1:
        raise fvot.InputError("start this on one rank: it starts what runs on two")
    report = machine.Report()
    report.say("# Dynamical optimal transport: speed and errors\n")
    report.say(f"One run of `benchmarks/transport.py` on {strftime('%d %B %Y')}.\n")
    report.table(("machine", ""), machine.rows())
    python = peers_of(report, peer_python) if part in ("all", "peers") else ""
    parts = {
        "targets": lambda: targets(report, quick),
        "where": lambda: where(report, quick),
        "growth": lambda: growth(report, quick),
        "errors": lambda: errors(report, quick),
        "peers": lambda: peers(report, quick, python),
    }
    report.measure(part, parts)
    report.write(out)


if __name__ == "__main__":
    fvot.run(main)
