"""Linear systems, graph partitions and PETSc's options. The only file that imports petsc4py."""

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from .arguments.paths import expanded
from .errors import ConvergenceError, InputError, missing

try:
    import petsc4py

    # not sys.argv: `fvot.run` reads that, once, and hands PETSc what is PETSc's; signals stay
    # Python's
    petsc4py.init(["fvot", "-no_signal_handler"])
    from petsc4py import PETSc
except ImportError as error:
    raise missing("PETSc with petsc4py", error) from None


def set_options(arguments):
    """Hand command-line arguments such as ["-ksp_monitor", "-pc_type", "gamg"] to PETSc.

    Folders of files that PETSc is to write (``-log_view :out/petsc.log``) are made. Raises
    `InputError` where one cannot be.
    """
    words = [_with_folder(word) for word in arguments]
    PETSc.Options().insertString(" ".join(f'"{word}"' if " " in word else word for word in words))
    if "-log_view" in arguments:
        PETSc.Log.begin()  # PETSc does so by itself only when it is initialised


def _with_folder(word):
    """The word; where it names a file for a viewer of PETSc, ~ is replaced and its folder made.

    Such words are [type]:file[:format[:mode]].
    """
    viewer = re.fullmatch(r"(|ascii|binary|hdf5|vtk)(:)([^:]+)(|:.*)", word)
    if not viewer:
        return word
    kind, _, file, rest = viewer.groups()
    path = expanded(file)
    if "ascii_xml" in rest or "ascii_flamegraph" in rest:
        raise InputError(
            f"PETSc prepares the format of {word} when it starts only: set "
            f"PETSC_OPTIONS='-log_view {word}'"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"PETSc cannot write {path}, {error.strerror}: choose a place where you may write"
        ) from None
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(f"PETSc cannot write {path}: give a file in a folder where you may write")
    return f"{kind}:{path}{rest}"


def versions():
    """PETSc's version as a string."""
    return ".".join(map(str, PETSc.Sys.getVersion()))


def has_package(name):
    """Whether PETSc was built with the external package *name*."""
    return PETSc.Sys.hasExternalPackage(name)


def partition(graph, weight, center, n_parts):
    """The part (n,) of each node of a graph (CSR), in n_parts parts of nearly equal weight with few
    edges between them.

    PT-Scotch where PETSc has it; else bisection of the coordinates *center* (dim, n).
    """
    os.environ.setdefault(
        "SCOTCH_PTHREAD_NUMBER", "1"
    )  # its threads race: a program run again would have other parts
    if not has_package("ptscotch"):
        return bisect(center, weight, n_parts)
    pattern = graph.copy()
    pattern.setdiag(0)
    pattern.eliminate_zeros()
    index = pattern.indptr.astype(PETSc.IntType), pattern.indices.astype(PETSc.IntType)
    adjacency = PETSc.Mat().createAIJ(
        graph.shape, csr=(*index, np.ones(len(pattern.indices))), comm=PETSc.COMM_SELF
    )
    adjacency = adjacency.convert("mpiadj")
    prefix = "fvot_partition_"
    options = PETSc.Options(prefix)
    options["mat_partitioning_nparts"] = n_parts
    division = PETSc.MatPartitioning().create(PETSc.COMM_SELF)
    division.setOptionsPrefix(prefix)
    division.setType("ptscotch")
    division.setAdjacency(adjacency)
    division.setFromOptions()
    numbers = PETSc.IS()
    division.apply(numbers)
    part = numbers.getIndices().astype(np.int64)
    return (
        part if len(np.unique(part)) == n_parts else bisect(center, weight, n_parts)
    )  # no part may be empty


def bisect(center, weight, n_parts):
    """Recursive bisection along the longest axis: the part (n,) of each point, of nearly equal
    weight.
    """
    part = np.zeros(len(weight), np.int64)
    _bisect(center, np.asarray(weight, float), np.arange(len(weight)), 0, n_parts, part)
    return part


def _bisect(center, weight, index, first, n_parts, part):
    if n_parts == 1:
        part[index] = first
        return
    axis = np.ptp(center[:, index], axis=1).argmax()
    order = index[np.argsort(center[axis, index], kind="stable")]
    share = np.cumsum(weight[order]) - weight[order] / 2
    half = np.searchsorted(share, weight[order].sum() * (n_parts // 2) / n_parts)
    half = np.clip(half, n_parts // 2, len(order) - (n_parts - n_parts // 2))  # no part stays empty
    _bisect(center, weight, order[:half], first, n_parts // 2, part)
    _bisect(center, weight, order[half:], first + n_parts // 2, n_parts - n_parts // 2, part)


# ---- linear systems ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A Krylov method, its preconditioner and PETSc's options for both."""

    ksp: str
    pc: str
    options: dict
    max_it: int = 1000


# Relative to a row's sum, below which a pivot counts as 0: PETSc's own 2e-14 refuses good ones
# where densities span decades.
PIVOT = 1e-30
UNSYMMETRIC = {
    "pc_gamg_agg_nsmooths": 0,
    "mg_levels_ksp_type": "richardson",
    "mg_levels_pc_type": "sor",
}  # what GAMG needs


def method(name, dim, n_ranks):
    """The `Method` of that name.

    cg : conjugate gradients with algebraic multigrid, for symmetric positive matrices
    icc : conjugate gradients with ILU(0) of each rank's rows, which is incomplete Cholesky where a
        matrix is symmetric: cheap, for few iterations
    lu : one factorisation: in nested-dissection order on one rank, else by MUMPS, or where PETSc
        lacks that, of all rows on every rank
    ilu : BiCGStab with ILU(0) of each rank's rows as they are numbered
    amg : right-preconditioned GMRES, which watches the true residual, with BoomerAMG
    """
    if name == "lu" and n_ranks == 1:
        return Method(
            "preonly", "lu", {"pc_factor_mat_ordering_type": "nd", "pc_factor_zeropivot": PIVOT}
        )
    if name == "lu" and has_package("mumps"):
        return Method("preonly", "lu", {"pc_factor_mat_solver_type": "mumps"})
    if name == "lu":
        return Method("preonly", "redundant", {"redundant_pc_factor_zeropivot": PIVOT})
    if name == "ilu":
        return Method("bcgs", "bjacobi", {"sub_pc_factor_zeropivot": PIVOT}, 500)
    if name == "icc":
        return Method("cg", "bjacobi", {"sub_pc_factor_zeropivot": PIVOT}, 40)
    if name == "cg":
        return (
            Method("cg", "hypre", {"pc_hypre_type": "boomeramg"})
            if has_package("hypre")
            else Method("cg", "gamg", {})
        )
    options = {"ksp_pc_side": "right", "ksp_gmres_restart": 60}
    if not has_package("hypre"):
        return Method("gmres", "gamg", options | UNSYMMETRIC, 120)
    options |= {
        "pc_hypre_type": "boomeramg",
        "pc_hypre_boomeramg_relax_type_all": "sor/jacobi",
        "pc_hypre_boomeramg_strong_threshold": 0.25,
    }
    if dim == 3:
        options |= {
            "pc_hypre_boomeramg_coarsen_type": "HMIS",
            "pc_hypre_boomeramg_interp_type": "ext+i",
            "pc_hypre_boomeramg_P_max": 4,
            "pc_hypre_boomeramg_strong_threshold": 0.5,
        }
    return Method("gmres", "hypre", options, 120)


class System:
    """A sparse linear system, set up once for many right-hand sides: x = system(b).

    matrix : this rank's rows, with global column numbers (CSR), or PETSc's
    method : a `Method`; PETSc options with the prefix overrule it
    singular : constants are its null space
    action : a map of this rank's x (n,), whose values are added to those of the matrix, but not to
        the preconditioner

    Raises `ConvergenceError` where PETSc refuses.
    """

    def __init__(self, ranks, matrix, method, *, prefix, rtol, singular=False, action=None):
        self.ranks = ranks
        self.matrix = _assembled(ranks, matrix)
        if singular:
            self.matrix.setNullSpace(PETSc.NullSpace().create(constant=True, comm=ranks.comm))
        self.ksp = PETSc.KSP().create(ranks.comm)
        self._operate(action)
        self.ksp.setOptionsPrefix(prefix)
        self.ksp.setType(method.ksp)
        self.ksp.setTolerances(rtol=rtol, max_it=method.max_it)
        self.ksp.getPC().setType(method.pc)
        own = PETSc.Options(prefix)
        self._options = (
            own,
            {} if own.hasName("ksp_type") or own.hasName("pc_type") else method.options,
        )
        with _defaults(*self._options):
            self.ksp.setFromOptions()
        self._set_up()
        self.rtol = self.ksp.getTolerances()[0]  # an option may have changed it
        self._b, self._x = self.matrix.createVecLeft(), self.matrix.createVecRight()
        self.iterations = 0

    def _operate(self, action):
        operator = self.matrix
        if action is not None:
            operator = PETSc.Mat().createPython(
                self.matrix.getSizes(), _Action(self.matrix, action), comm=self.ranks.comm
            )
            operator.setUp()
        self.ksp.setOperators(operator, self.matrix)

    def _set_up(self):
        """Make the preconditioner, whose parts look for their options only now."""
        with _defaults(*self._options), _refusals():
            self.ksp.setUp()

    def renew(self, matrix, action=None, *, keep_preconditioner=False):
        """Another matrix of the same shape takes the place of the last one, in whose preconditioner
        or in one of its own.
        """
        old = self.matrix
        self.matrix = _assembled(self.ranks, matrix)
        self._operate(action)
        self.ksp.getPC().setReusePreconditioner(keep_preconditioner)
        old.destroy()
        self._set_up()

    def __call__(self, b, rtol=None, max_it=None):
        """x (n,) for the right-hand side b (n,) of this rank; look at `reason` and at the residual."""
        self.ksp.setTolerances(rtol=rtol, max_it=max_it)
        self._b.setArray(b)
        with _refusals():
            self.ksp.solve(self._b, self._x)
        self.iterations += self.ksp.getIterationNumber()
        return self._x.getArray().copy()

    @property
    def reason(self):
        """PETSc's reason for stopping: negative for a failure."""
        return self.ksp.getConvergedReason()

    def destroy(self):
        """Give the memory back at once: a factorisation may fill it. Collective."""
        for part in self.ksp, self.matrix, self._b, self._x:
            part.destroy()


def _assembled(ranks, matrix):
    """PETSc's matrix of this rank's rows (CSR, global columns); itself if it is one already."""
    if isinstance(matrix, PETSc.Mat):
        return matrix
    n = matrix.shape[0]
    index = matrix.indptr.astype(PETSc.IntType), matrix.indices.astype(PETSc.IntType)
    return PETSc.Mat().createAIJ(((n, None), (n, None)), csr=(*index, matrix.data), comm=ranks.comm)


def squared_plus(ranks, B, L):
    """PETSc's matrix B^T B + L, of this rank's rows of both (CSR, global columns)."""
    B, L = _assembled(ranks, B), _assembled(ranks, L)
    found = B.transposeMatMult(B)
    found.axpy(1.0, L, structure=PETSc.Mat.Structure.SUBSET_NONZERO_PATTERN)
    B.destroy()
    L.destroy()
    return found


class _Action:
    """matrix x + action(x), as PETSc wants it."""

    def __init__(self, matrix, action):
        self.matrix = matrix
        self.action = action

    def mult(self, mat, x, y):
        self.matrix.mult(x, y)
        y.setArray(y.getArray() + self.action(x.getArray(readonly=True)))


@contextmanager
def _refusals():
    """A block in which an error of PETSc is a `ConvergenceError`."""
    try:
        yield
    except PETSc.Error as error:
        raise ConvergenceError(
            f"PETSc refuses to solve a linear system: {str(error).splitlines()[-1]}"
        ) from None


@contextmanager
def _defaults(database, options):
    """PETSc options that stand while the block runs, where the user has set none of the same name."""
    mine = {name: value for name, value in options.items() if not database.hasName(name)}
    for name, value in mine.items():
        database[name] = value
    try:
        yield
    finally:
        for name in mine:
            database.delValue(name)


def solve(ranks, matrix, b, *, prefix, rtol=1e-10, singular=False):
    """Solve a symmetric positive matrix by conjugate gradients with algebraic multigrid: x (n,) of
    this rank.

    *matrix* holds this rank's rows, with global column numbers (CSR); *singular*: constants are its
    null space. PETSc options with the given prefix overrule the choice. Raises `ConvergenceError`
    if the true residual stays above 100 rtol |b|.
    """
    system = System(
        ranks, matrix, method("cg", 2, ranks.size), prefix=prefix, rtol=rtol, singular=singular
    )
    x = system(b)
    residual = (system._b - system.matrix * system._x).norm() / max(
        system._b.norm(), np.finfo(float).tiny
    )
    if system.reason < 0 or residual > 100 * rtol:
        raise ConvergenceError(
            f"the linear system {prefix!r} stopped after {system.iterations} iterations with "
            "relative residual "
            f"{residual:.1e} > {100 * rtol:.1e} (PETSc's reason {system.reason}); try "
            f"-{prefix}pc_type lu"
        )
    return x


# ---- which method is the cheapest -----------------------------------------------------------------

# Cells up to which a mesh of this dimension is factorised. It trades the memory of the factors
# for a solver that needs no iterations.
LU_CELL_LIMIT = {1: 10**7, 2: 2 * 10**6, 3: 40_000}

# Cells of the meshes on which the costs of LU were measured in two and three dimensions.
LU_REFERENCE_CELLS = {2: 65_536, 3: 8_000}


def estimate_costs(
    n: int, dim: int, n_ranks: int, stiffness: float, steepness: float, has_scale: bool = True
) -> dict[str, tuple[float, float]]:
    """{method: (set-up, one solve)} of |K| + s A for n cells, in microseconds per cell.

    stiffness : s max A_KK / |K|, the step in units of the time in which a cell is emptied
    steepness : a typical cell Peclet number; above 1 the drift dominates, and ILU(0) in its order
        is nearly exact
    has_scale : whether the scaling of the columns is known; else it has to be found first

    Only the ratios matter. The numbers are fitted to measurements on squares and boxes
    (benchmarks/RESULTS_fokker_planck.md).
    """
    parallel_share = n_ranks**-0.8
    found_once = 0 if has_scale else 9
    iterations = _estimate_ilu_iterations(n, dim, stiffness, steepness)

    ilu_solve = 0.04 + 0.026 * iterations
    amg_set_up = (1.2 if dim == 3 else 0.7) + found_once
    amg_solve = 1.3 if dim == 3 else 0.7 + 0.5 * min(steepness, 1)

    costs = {
        "ilu": (0.25 * parallel_share, ilu_solve * parallel_share),
        "amg": (amg_set_up * parallel_share, amg_solve * parallel_share),
    }
    if n <= LU_CELL_LIMIT[dim]:
        costs["lu"] = _estimate_lu_costs(n, dim, n_ranks)
    return costs


def _estimate_ilu_iterations(n, dim, stiffness, steepness):
    if dim == 1:
        return 3
    side = n ** (1 / dim)
    steep = 1 + steepness
    by_stiffness = (3 if dim == 2 else 1.5) * np.sqrt(stiffness) / steep
    by_size = 0.65 * side / np.sqrt(steep)
    return 2 + min(by_stiffness, by_size)


def _estimate_lu_costs(n, dim, n_ranks):
    """(set-up, one solve): PETSc's own LU on one rank; MUMPS, which also waits, on several."""
    if dim == 1:
        serial = (0.2, 0.015)
        mumps = (1.0, 0.1)
    else:
        size = n / LU_REFERENCE_CELLS[dim]
        if dim == 2:
            serial = (2.5 * size**0.6, 0.045 * size**0.12)
            mumps = (6.8, 0.5 * size**0.7)
        else:
            serial = (10 * size**1.25, 0.11 * size**0.4)
            mumps = (20 * size**0.4, 0.7)

    if n_ranks == 1:
        return serial
    set_up, solve = mumps
    return set_up + 4000 / n, solve + 1600 / n


def rank_methods(
    costs: dict[str, tuple[float, float]], n_solves: float, ready: str | None = None
) -> list[str]:
    """The names of the methods, the cheapest for n_solves solves first.

    ready : the method that is set up already
    """

    def total(name):
        set_up, solve = costs[name]
        return (0 if name == ready else set_up) + n_solves * solve

    return sorted(costs, key=total)
